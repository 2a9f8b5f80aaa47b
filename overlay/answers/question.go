package answers

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

var questionKey = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$`)

// Validate reports everything wrong with q by itself, one problem per line.
func (q *Question) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case !questionKey.MatchString(q.Key):
		add("key %q; expected parts of lower-case letters, digits and underscores joined by dots, as lan.inet", q.Key)
	case q.Key == "schema" || strings.HasPrefix(q.Key, "schema."):
		add("key schema is the answers file's own")
	case q.Key == "rig" || strings.HasPrefix(q.Key, "rig."):
		add("key rig is what templates know the image by")
	case len(q.Key) > 100:
		add("key is longer than 100 bytes")
	}
	if q.Type.spec().noun == "" {
		names := make([]string, len(specs))
		for i, sp := range specs {
			names[i] = string(sp.typ)
		}
		add("unknown type %q; expected one of %s", q.Type, strings.Join(names, ", "))
		return errors.Join(errs...)
	}
	for _, text := range []string{q.Prompt, q.Distinct} {
		if strings.ContainsAny(text, "\n\r") {
			add("prompt and distinct are one line each")
			break
		}
	}
	errs = append(errs, q.checkOptions()...)
	errs = append(errs, q.checkBounds()...)
	errs = append(errs, q.checkRelationTypes()...)
	errs = append(errs, q.checkServerRelations()...)
	if len(errs) == 0 { // a default is judged by all of the above
		errs = append(errs, q.checkDefault()...)
	}
	return errors.Join(errs...)
}

func (q *Question) checkOptions() (errs []error) {
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if q.List && (q.Type == Disks || q.Type == Bool) {
		add("list does not go with type %s", q.Type)
	}
	if q.Secret && q.Type != Text && q.Type != Secret && q.Type != PasswordHash {
		add("secret does not go with type %s; it goes with text, secret and password_hash", q.Type)
	}
	if q.Generate && (q.Type != Secret && q.Type != PasswordHash || q.List) {
		add("generate goes with type secret or password_hash that is no list")
	}
	switch {
	case q.Type != Choice && len(q.Choices) > 0:
		add("choices do not go with type %s", q.Type)
	case q.Type == Choice && len(q.Choices) < 2:
		add("type choice with %s; expected at least two", count(len(q.Choices), "choice"))
	}
	for i, c := range q.Choices {
		if c == "" || !printable(c) || strings.ContainsAny(c, " ,") {
			add("choice %q; expected a word without blanks and commas", c)
		}
		if slices.Contains(q.Choices[:i], c) {
			add("choice %q is there twice", c)
		}
	}
	return errs
}

func (q *Question) checkBounds() (errs []error) {
	if q.Min == nil && q.Max == nil {
		return nil
	}
	switch q.Type {
	case VLAN, Port, Int, Size, Label, Domain, Text, Secret:
	default:
		return []error{fmt.Errorf("min and max do not go with type %s", q.Type)}
	}
	if q.Min != nil && q.Max != nil && *q.Min > *q.Max {
		errs = append(errs, fmt.Errorf("min %d is above max %d", *q.Min, *q.Max))
	}
	return errs
}

// checkRelationTypes judges what relations q's own type allows.
func (q *Question) checkRelationTypes() (errs []error) {
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	network := q.Type == IP || q.Type == CIDR || q.Type == Net
	if q.Within != "" && q.Type != IP {
		add("within goes with type ip, not %s", q.Type)
	}
	if q.GatewayOf != "" && (q.Type != IP || q.List) {
		add("gateway_of goes with type ip that is no list")
	}
	if (len(q.Outside) > 0 || len(q.Apart) > 0) && !network {
		add("outside and apart go with types ip, cidr and net, not %s", q.Type)
	}
	if q.Distinct != "" && (q.Hidden() || q.Type == Disks || q.Type == Bool) {
		add("distinct does not go with disks, bool and secrets")
	}
	for _, o := range q.Outside {
		if p, err := netip.ParsePrefix(o); err != nil || !p.Addr().Is4() || p != p.Masked() {
			add("outside %q; expected an IPv4 network, as 10.0.2.0/24", o)
		}
	}
	return errs
}

// checkServerRelations judges Peer, Same and Differ.
func (q *Question) checkServerRelations() (errs []error) {
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if q.Peer != "" && (q.Hidden() || q.Type == Disks || q.Type == Bool) {
		add("peer does not go with disks, bool and secrets")
	}
	if q.Same && q.Type == Disks {
		add("same does not go with type disks; every server has its own")
	}
	if q.Same && q.Type == CIDR && q.List {
		add("same does not go with a list of cidr")
	}
	if q.Differ && (q.Hidden() || q.List || q.Type == Disks || q.Type == Bool) {
		add("differ does not go with disks, bool, secrets and lists")
	}
	switch {
	case q.Same && q.Differ:
		add("both same and differ; expected one of them")
	case q.Peer != "" && (q.Same || q.Differ):
		add("peer with same or differ; the other server's answer says it all")
	}
	return errs
}

func (q *Question) checkDefault() (errs []error) {
	if q.Default == nil {
		return nil
	}
	if q.Hidden() {
		return []error{errors.New("default of a secret; it would be in every image")}
	}
	_, flaws := decode(q, q.Default)
	for _, f := range flaws {
		errs = append(errs, fmt.Errorf("%s: %s", dotted(append([]string{"default"}, f.sub...)), f.msg))
	}
	if w, ok := q.Default.(map[string]any); ok && w["wipe"] == true {
		errs = append(errs, errors.New("default.wipe: an image must not ask for wiping"))
	}
	return errs
}

// ValidateQuestions reports every mistake in a profile's questions as
// [diag.Problems] whose Key is the question's; it knows no file. The built-in
// questions may be relied on and restated.
func ValidateQuestions(qs []Question) error {
	var ps diag.Problems
	add := func(key, format string, args ...any) {
		ps.Add(diag.Problem{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	all := All(qs)
	members := map[string]int{} // of distinct groups; a list counts as many
	for i := range qs {
		q := &qs[i]
		if err := q.Validate(); err != nil {
			for msg := range strings.SplitSeq(err.Error(), "\n") {
				add(q.Key, "%s", msg)
			}
		}
		if find(qs[:i], q.Key) != nil {
			add(q.Key, "the key is used by two questions")
		}
		if b := find(Builtin(), q.Key); b != nil && (b.Type != q.Type || q.List || !slices.Equal(b.Choices, q.Choices)) {
			add(q.Key, "a built-in question keeps its type (%s) and choices", b.Type)
		}
		for j := range all {
			if strings.HasPrefix(all[j].Key, q.Key+".") {
				add(q.Key, "the key is also the table of %s", all[j].Key)
			} else if j >= len(qs) && strings.HasPrefix(q.Key, all[j].Key+".") {
				add(q.Key, "the key is below that of the question %s", all[j].Key)
			}
		}
		for _, msg := range relationMistakes(q, all) {
			add(q.Key, "%s", msg)
		}
		members[q.Distinct]++
		if q.List {
			members[q.Distinct]++
		}
	}
	for i := range qs {
		if g := qs[i].Distinct; g != "" && members[g] < 2 {
			add(qs[i].Key, "nothing else is in the distinct group %q", g)
		}
	}
	return ps.Err()
}

// relationMistakes lists relations of q to questions that are unknown or of
// another type than they need.
func relationMistakes(q *Question, all []Question) (msgs []string) {
	refs := [][2]string{{"within", q.Within}, {"gateway_of", q.GatewayOf}}
	for _, a := range q.Apart {
		refs = append(refs, [2]string{"apart", a})
	}
	keys := make([]string, len(all))
	for i := range all {
		keys[i] = all[i].Key
	}
	for _, r := range refs {
		rel, key := r[0], r[1]
		if key == "" && rel != "apart" {
			continue
		}
		switch other := find(all, key); {
		case other == nil:
			msgs = append(msgs, fmt.Sprintf("%s: there is no question %q%s", rel, key, suggest(key, keys)))
		case key == q.Key:
			msgs = append(msgs, fmt.Sprintf("%s: the question relates to itself", rel))
		case other.Type != CIDR || other.List:
			kind := string(other.Type)
			if other.List {
				kind += " list"
			}
			msgs = append(msgs, fmt.Sprintf("%s: %s is of type %s; expected a single cidr", rel, key, kind))
		}
	}
	if msg := peerMistake(q, all, keys); msg != "" {
		msgs = append(msgs, msg)
	}
	return msgs
}

// peerMistake says why q's Peer cannot be its answer, "" when it can.
func peerMistake(q *Question, all []Question, keys []string) string {
	if q.Peer == "" {
		return ""
	}
	other := find(all, q.Peer)
	switch {
	case other == nil:
		return fmt.Sprintf("peer: there is no question %q%s", q.Peer, suggest(q.Peer, keys))
	case other.Key == q.Key:
		return "peer: the question relates to itself; same says that both servers have one answer"
	case other.Peer != "":
		return fmt.Sprintf("peer: %s is itself the other server's answer", q.Peer)
	case other.Hidden() && !q.Hidden():
		return fmt.Sprintf("peer: %s is a secret", q.Peer)
	case other.List && !q.List:
		return fmt.Sprintf("peer: %s is a list; expected a single answer", q.Peer)
	case other.Type != q.Type && (q.Type != IP || other.Type != CIDR):
		return fmt.Sprintf("peer: %s is of type %s; expected %s", q.Peer, other.Type, peerTypes(q.Type))
	}
	return ""
}

func peerTypes(t Type) string {
	if t == IP {
		return "ip or cidr"
	}
	return string(t)
}
