// Package answers is about what differs between servers: typed questions, the
// answers to them from several sources, and everything that can be wrong with
// those.
//
// A profile asks [Question]s, and [Builtin] ones are always asked. [Resolve] merges
// sources (TOML files, kernel environment), weakest first, and reports every
// problem of every source at once, with its place. A required question without
// an answer is no problem yet: [Set.Missing] lists those, prompts fill them in with
// [ParseText] and [Set.Set], and [Set.Check] has the last word.
//
// An answers file is TOML 1.0 whose tables mirror the dotted keys:
//
//	schema = 1
//	[lan]
//	inet = "192.0.2.10/24"   # the answer to question lan.inet
//	[disks]
//	mirror = ["serial:A", "serial:B"]
//
// Secrets are [SecretValue]s, which print as "[secret]", and problems show the
// source line without the values of secrets and of unknown keys. IPv6 is not
// supported yet. Sizes are bytes.
package answers

// Schema is the version of the answers file this package reads and writes.
const Schema = 1

// Type says what an answer looks like. The Go value of each is in parentheses;
// a list question has a slice of it.
type Type string

const (
	Label        Type = "label"         // one part of a host name (string)
	Domain       Type = "domain"        // dotted host or domain name (string)
	IP           Type = "ip"            // IPv4 address (netip.Addr)
	CIDR         Type = "cidr"          // IPv4 address of a machine with prefix length (netip.Prefix, host bits kept)
	Net          Type = "net"           // IPv4 network or one address (netip.Prefix, masked)
	NIC          Type = "nic"           // network interface (NICMatch)
	VLAN         Type = "vlan"          // 0 (none) to 4094 (int64)
	Port         Type = "port"          // 1 to 65535 (int64)
	Int          Type = "int"           // (int64)
	Choice       Type = "choice"        // one of Question.Choices (string)
	SSHKey       Type = "ssh_key"       // public key as in a .pub file (string)
	Secret       Type = "secret"        // (SecretValue)
	PasswordHash Type = "password_hash" // crypt(3) hash, "*" for no password (SecretValue)
	Disks        Type = "disks"         // (DiskWish)
	Size         Type = "size"          // bytes, written "512m", "2g" (int64)
	Bool         Type = "bool"          // (bool)
	Text         Type = "text"          // one line, or more in TOML (string; SecretValue when Question.Secret)
)

// Question is one value to ask for. Key is dotted, "lan.inet"; its parts are
// [a-z][a-z0-9_]*.
type Question struct {
	Key      string   `toml:"key" json:"key"`
	Type     Type     `toml:"type" json:"type"`
	List     bool     `toml:"list,omitempty" json:"list,omitempty"` // the answer is a list of Type
	Prompt   string   `toml:"prompt,omitempty" json:"prompt,omitempty"`
	Help     string   `toml:"help,omitempty" json:"help,omitempty"`
	Default  any      `toml:"default,omitempty" json:"default,omitempty"`   // as in an answers file: scalar, list, or table for disks
	Required bool     `toml:"required,omitempty" json:"required,omitempty"` // must have an answer, a default or Generate
	Secret   bool     `toml:"secret,omitempty" json:"secret,omitempty"`     // never shown or logged; implied by secret and password_hash
	Generate bool     `toml:"generate,omitempty" json:"generate,omitempty"` // made on the target when missing; secret and password_hash
	Choices  []string `toml:"choices,omitempty" json:"choices,omitempty"`

	// Bounds of the value for numbers and sizes (bytes), of the length in bytes
	// for label, domain, text and secret.
	Min *int64 `toml:"min,omitempty" json:"min,omitempty"`
	Max *int64 `toml:"max,omitempty" json:"max,omitempty"`

	// Relations between answers. A relation to a question without an answer
	// holds. Within, GatewayOf and Apart hold keys of cidr questions that are
	// not lists.
	Within    string   `toml:"within,omitempty" json:"within,omitempty"`         // its network contains this address, which is neither its network nor its broadcast address
	GatewayOf string   `toml:"gateway_of,omitempty" json:"gateway_of,omitempty"` // this router may be outside that subnet (then on-link), but is not the server itself, nor the network or broadcast address
	Outside   []string `toml:"outside,omitempty" json:"outside,omitempty"`       // networks this must not overlap
	Apart     []string `toml:"apart,omitempty" json:"apart,omitempty"`           // keys whose networks must not overlap this
	Distinct  string   `toml:"distinct,omitempty" json:"distinct,omitempty"`     // group: all values in it differ; a cidr counts as its address

	// Relations between the two servers of a site file; see package overlay/answers/site.
	Peer   string `toml:"peer,omitempty" json:"peer,omitempty"`     // key of the question whose answer on the other server this is: of the same type, or the address of a cidr; a list is that one
	Same   bool   `toml:"same,omitempty" json:"same,omitempty"`     // both servers have the same; a cidr counts as its network
	Differ bool   `toml:"differ,omitempty" json:"differ,omitempty"` // the servers have different ones; a nic counts by its MAC address
}

// Hidden reports whether an answer to q is a SecretValue.
func (q *Question) Hidden() bool {
	return q.Secret || q.Type == Secret || q.Type == PasswordHash
}

// Keys of the built-in questions.
const (
	KeyDisks      = "disks"
	KeyUnattended = "install.unattended"
	KeyAfter      = "install.after"
	KeyEncrypt    = "install.encrypt"
	KeyPassphrase = "install.passphrase"
)

// Bounds of the passphrase in bytes. The kernel's prompt keeps 255 (FreeBSD 15.1
// sys/geom/eli/g_eli.c).
const minPassphrase, maxPassphrase = 8, 255

// Builtin returns the questions that are always asked. A profile may restate one
// to change its prompt, help or default, but not its type.
func Builtin() []Question {
	lo, hi := int64(minPassphrase), int64(maxPassphrase)
	return []Question{
		{
			Key: KeyDisks, Type: Disks, Required: true,
			Prompt: "Disks",
			Help: "The disks of the pool: at least two mirror members, and spares. " +
				"Disks are named by serial number, and wiped only when wipe is true. " +
				"Instead of naming them, rule = \"" + RuleLargestEqual + "\" takes all blank disks of the largest equal size: " +
				"two for the mirror, the others as spares.",
		},
		{
			Key: KeyUnattended, Type: Bool, Default: false,
			Prompt: "Install without asking",
			Help:   "Install without prompts and without a confirmation. Everything required must be answered.",
		},
		{
			Key: KeyAfter, Type: Choice, Default: "reboot", Choices: []string{"reboot", "poweroff", "shell"},
			Prompt: "After the installation",
		},
		{
			Key: KeyEncrypt, Type: Bool, Default: false,
			Prompt: "Encrypt the pool",
			Help: "Encrypt the pool with GELI, on every disk. The server then asks for the passphrase at each start, on its video and serial " +
				"consoles, and waits for it. Swap is encrypted in any case.",
		},
		{
			Key: KeyPassphrase, Type: Secret, Min: &lo, Max: &hi,
			Prompt: "Passphrase of the encrypted pool",
			Help: "ASCII only, and typed on a US keyboard at the start: no other layout is loaded then. Without it nothing on the pool can ever be " +
				"read again. With a passphrase here the pool is encrypted, whatever encrypt says.",
		},
	}
}

// All returns qs and the built-in questions that qs does not restate. Resolve
// and Template do this themselves.
func All(qs []Question) []Question {
	out := append([]Question(nil), qs...)
	for _, b := range Builtin() {
		if find(qs, b.Key) == nil {
			out = append(out, b)
		}
	}
	return out
}

func find(qs []Question, key string) *Question {
	for i := range qs {
		if qs[i].Key == key {
			return &qs[i]
		}
	}
	return nil
}
