//go:build !linux

package main

func consoleMain() {}
