package firstboot

import (
	"os"
	"testing"

	"github.com/rig-freebsd/rig/internal/fakebsd"
)

func TestMain(m *testing.M) { os.Exit(fakebsd.Main(m)) }
