// Package ova writes and reads VirtualBox appliances: a tar archive of an OVF 1.0
// descriptor, a manifest of SHA-256 sums and the disks, for one virtual machine
// that runs FreeBSD.
//
// Read from DMTF DSP0243 1.1 (OVF), FreeBSD 15.1 release/scripts/box.ovf and
// VirtualBox 7.1 src/VBox/Main: xml/ovfreader.cpp, src-server/
// ApplianceImplImport.cpp, xml/Settings.cpp. What VirtualBox asks for:
//
//   - it reads the archive once and forward: descriptor, manifest, then the disks as
//     References lists them.
//   - every disk has a file. A Disk without fileRef, which OVF allows for an empty
//     one, is created when an .ovf is imported; from an archive i_importVBoxMachine
//     asks for the next file first and gives up with "Unexpected end of OVA
//     package". An empty disk takes 66 KiB as a VMDK.
//   - vbox:Machine replaces the generic hardware section but for the number of CPUs,
//     the memory and the disks, so both say the same.
//   - the Image of every attachment has the vbox:uuid of a Disk, compared as text
//     in lower case; a Disk without attachment is an error.
//   - StorageControllers is a child of Machine, not of Hardware, in settings of
//     version 1.16.
//   - MAC addresses are replaced at import unless told otherwise (VBoxManage import
//     --options keepallmacs), and serial ports lose their connection to the host.
//
// Left out: several machines, other controllers than one AHCI, compressed or split
// files, signatures, NVRAM. Sizes are in bytes unless said otherwise.
package ova

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
	"text/template"
)

const (
	envelopeNS = "http://schemas.dmtf.org/ovf/envelope/1"
	machineNS  = "http://www.virtualbox.org/ovf/machine"
	diskFormat = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
	settings   = "1.16-freebsd" // version of vbox:Machine; what is behind the dash is not read

	// Resource types of CIM_ResourceAllocationSettingData.
	typeCPU      = 3
	typeMemory   = 4
	typeEthernet = 10
	typeDisk     = 17
	typeStorage  = 20

	controllerID = 3  // InstanceID; disks and adapters follow
	maxPorts     = 30 // of AHCI
	maxAdapters  = 8
)

var descriptor = template.Must(template.New("ovf").Option("missingkey=error").Funcs(template.FuncMap{
	"x": escape, "inc": func(n, by int) int { return n + by }, "lower": strings.ToLower,
}).Parse(`<?xml version="1.0" encoding="UTF-8"?>
<Envelope ovf:version="1.0" xml:lang="en-US" xmlns="` + envelopeNS + `" xmlns:ovf="` + envelopeNS + `"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:vbox="` + machineNS + `">
  <References>
{{- range $i, $d := .Disks}}
    <File ovf:id="{{$.FileID $i}}" ovf:href="{{x $d.Name}}" ovf:size="{{$d.Length}}"/>
{{- end}}
  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
{{- range $i, $d := .Disks}}
    <Disk ovf:capacity="{{$d.Capacity}}" ovf:diskId="{{$.DiskID $i}}" ovf:fileRef="{{$.FileID $i}}" ovf:format="` + diskFormat + `" vbox:uuid="{{lower $d.UUID}}"/>
{{- end}}
  </DiskSection>
  <NetworkSection>
    <Info>Logical networks</Info>
{{- range .Networks}}
    <Network ovf:name="{{.}}">
      <Description>{{.}} network</Description>
    </Network>
{{- end}}
  </NetworkSection>
  <VirtualSystem ovf:id="{{x .Name}}">
    <Info>A virtual machine</Info>
    <AnnotationSection>
      <Info>Description</Info>
      <Annotation>{{x .Description}}</Annotation>
    </AnnotationSection>
    <OperatingSystemSection ovf:id="78">
      <Info>The guest operating system</Info>
      <Description>FreeBSD_64</Description>
      <vbox:OSType ovf:required="false">FreeBSD_64</vbox:OSType>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{{x .Name}}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>virtualbox-2.2</vssd:VirtualSystemType>
      </System>
      <Item>
        <rasd:Caption>{{.CPUs}} virtual CPU</rasd:Caption>
        <rasd:Description>Number of virtual CPUs</rasd:Description>
        <rasd:ElementName>{{.CPUs}} virtual CPU</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>{{.CPUs}}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits>
        <rasd:Caption>{{.Memory}} MB of memory</rasd:Caption>
        <rasd:Description>Memory size</rasd:Description>
        <rasd:ElementName>{{.Memory}} MB of memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>{{.Memory}}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:Address>0</rasd:Address>
        <rasd:Caption>sataController0</rasd:Caption>
        <rasd:Description>SATA controller</rasd:Description>
        <rasd:ElementName>sataController0</rasd:ElementName>
        <rasd:InstanceID>{{.ControllerID}}</rasd:InstanceID>
        <rasd:ResourceSubType>AHCI</rasd:ResourceSubType>
        <rasd:ResourceType>20</rasd:ResourceType>
      </Item>
{{- range $i, $d := .Disks}}
      <Item>
        <rasd:AddressOnParent>{{$i}}</rasd:AddressOnParent>
        <rasd:Caption>{{$.DiskID $i}}</rasd:Caption>
        <rasd:Description>Disk image</rasd:Description>
        <rasd:ElementName>{{$.DiskID $i}}</rasd:ElementName>
        <rasd:HostResource>/disk/{{$.DiskID $i}}</rasd:HostResource>
        <rasd:InstanceID>{{inc $i $.FirstDisk}}</rasd:InstanceID>
        <rasd:Parent>{{$.ControllerID}}</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
{{- end}}
{{- range $i, $n := .NICs}}
      <Item>
        <rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>
        <rasd:Caption>Ethernet adapter on {{$n.Kind}}</rasd:Caption>
        <rasd:Connection>{{$n.Kind}}</rasd:Connection>
        <rasd:ElementName>Ethernet adapter {{$i}}</rasd:ElementName>
        <rasd:InstanceID>{{inc $i $.FirstNIC}}</rasd:InstanceID>
        <rasd:ResourceSubType>E1000</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType>
      </Item>
{{- end}}
    </VirtualHardwareSection>
    <vbox:Machine ovf:required="false" version="` + settings + `" uuid="{{"{"}}{{lower .UUID}}}" name="{{x .Name}}" OSType="FreeBSD_64">
      <ovf:Info>VirtualBox settings, which take the place of the hardware above</ovf:Info>
      <Description>{{x .Description}}</Description>
      <Hardware>
        <CPU count="{{.CPUs}}">
          <PAE enabled="true"/>
          <LongMode enabled="true"/>
        </CPU>
        <Memory RAMSize="{{.Memory}}"/>
{{- if eq .Firmware "efi"}}
        <Firmware type="EFI"/>
{{- end}}
        <Boot>
          <Order position="1" device="HardDisk"/>
          <Order position="2" device="DVD"/>
          <Order position="3" device="None"/>
          <Order position="4" device="None"/>
        </Boot>
        <Display controller="VMSVGA" VRAMSize="16"/>
        <BIOS>
          <IOAPIC enabled="true"/>
          <SmbiosUuidLittleEndian enabled="true"/>
        </BIOS>
        <Network>
{{- range $i, $n := .NICs}}
          <Adapter slot="{{$i}}" enabled="true" MACAddress="{{$n.Address}}" cable="true"{{if eq $n.Kind "Internal"}} promiscuousModePolicy="AllowAll"{{end}} type="virtio">
            {{$n.Attachment}}
          </Adapter>
{{- end}}
        </Network>
        <UART>
          <Port slot="0" enabled="true" IOBase="0x3f8" IRQ="4" {{.SerialMode}}/>
        </UART>
        <AudioAdapter enabled="false"/>
        <RTC localOrUTC="UTC"/>
      </Hardware>
      <StorageControllers>
        <StorageController name="SATA" type="AHCI" PortCount="{{.Ports}}" useHostIOCache="false" Bootable="true">
{{- range $i, $d := .Disks}}
          <AttachedDevice nonrotational="true" type="HardDisk" hotpluggable="false" port="{{$i}}" device="0">
            <Image uuid="{{"{"}}{{lower $d.UUID}}}"/>
          </AttachedDevice>
{{- end}}
        </StorageController>
      </StorageControllers>
    </vbox:Machine>
  </VirtualSystem>
</Envelope>
`))

// escape is s as text or attribute of XML.
func escape(s string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(s)) // a bytes.Buffer does not fail
	return b.String()
}

// The identifiers sort as the disks are numbered: VirtualBox keeps them in a sorted
// map.

func (m *Machine) DiskID(i int) string { return fmt.Sprintf("vmdisk%02d", i+1) }
func (m *Machine) FileID(i int) string { return fmt.Sprintf("file%02d", i+1) }

// envelope is what [Read] looks at in a descriptor.
type envelope struct {
	XMLName xml.Name
	Files   []struct {
		ID   string `xml:"id,attr"`
		Href string `xml:"href,attr"`
		Size int64  `xml:"size,attr"`
	} `xml:"References>File"`
	Disks []struct {
		Capacity int64  `xml:"capacity,attr"`
		ID       string `xml:"diskId,attr"`
		FileRef  string `xml:"fileRef,attr"`
		Format   string `xml:"format,attr"`
		UUID     string `xml:"http://www.virtualbox.org/ovf/machine uuid,attr"`
	} `xml:"DiskSection>Disk"`
	Networks []network `xml:"NetworkSection>Network"`
	System   []struct {
		OSType   string    `xml:"OperatingSystemSection>OSType"`
		Items    []item    `xml:"VirtualHardwareSection>Item"`
		Machines []machine `xml:"http://www.virtualbox.org/ovf/machine Machine"`
	} `xml:"VirtualSystem"`
}

type item struct {
	AddressOnParent int    `xml:"AddressOnParent"`
	Units           string `xml:"AllocationUnits"`
	Connection      string `xml:"Connection"`
	HostResource    string `xml:"HostResource"`
	ID              int    `xml:"InstanceID"`
	Parent          int    `xml:"Parent"`
	SubType         string `xml:"ResourceSubType"`
	Type            int    `xml:"ResourceType"`
	Quantity        int    `xml:"VirtualQuantity"`
}

type machine struct {
	Version  string `xml:"version,attr"`
	UUID     string `xml:"uuid,attr"`
	Name     string `xml:"name,attr"`
	OSType   string `xml:"OSType,attr"`
	Hardware struct {
		CPU struct {
			Count int `xml:"count,attr"`
		}
		Memory struct {
			Size int `xml:"RAMSize,attr"`
		}
		Firmware struct {
			Type string `xml:"type,attr"`
		}
		Adapters []adapter `xml:"Network>Adapter"`
		Ports    []struct {
			Mode string `xml:"hostMode,attr"`
			Path string `xml:"path,attr"`
		} `xml:"UART>Port"`
	}
	Controllers []struct {
		Type    string `xml:"type,attr"`
		Ports   int    `xml:"PortCount,attr"`
		Devices []struct {
			Type  string `xml:"type,attr"`
			Port  int    `xml:"port,attr"`
			Image struct {
				UUID string `xml:"uuid,attr"`
			}
		} `xml:"AttachedDevice"`
	} `xml:"StorageControllers>StorageController"`
}

type adapter struct {
	Slot        int    `xml:"slot,attr"`
	Enabled     bool   `xml:"enabled,attr"`
	MAC         string `xml:"MACAddress,attr"`
	Type        string `xml:"type,attr"`
	Promiscuous string `xml:"promiscuousModePolicy,attr"`
	NAT         *struct{}
	Bridged     *network `xml:"BridgedInterface"`
	Internal    *network `xml:"InternalNetwork"`
}

type network struct {
	Name string `xml:"name,attr"`
}
