package firstboot

import (
	"os"
	"rig/internal/fakebsd"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(fakebsd.Main(m)) }
