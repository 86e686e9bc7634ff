package cluster

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
)

// testdata/messages has what nodes of each version say, a name and a quoted
// message a line. 1 was recorded from a node of that version; 2 is what this one says; 3 is what a newer one may: members of
// objects, and kinds, that nobody here knows.

// spoken is one message.
type spoken struct {
	name string
	text []byte
}

var (
	recordedAt    = netip.MustParseAddrPort("127.0.0.1:7946")
	recordedEpoch = lb.Epoch{Counter: 9, Origin: "b", Members: []lb.Member{self("a"), self("b")}}
)

func fixedKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)) }

func messagesOf(t *testing.T, version string) (all []spoken) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "messages", version+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, quoted, _ := strings.Cut(lines.Text(), " ")
		message, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("%s.txt: %s: %v", version, name, err)
		}
		all = append(all, spoken{name, []byte(message)})
	}
	return all
}

// said2 is what a node of this version says, or, with more in each object, of
// one to come.
func said2(version int, more string) (all []spoken) {
	id, _ := newIdentity("") // no file, no error
	id.key, id.seq = fixedKey(), 1<<lifeBits
	c := &Cluster{options: Options{Name: "test"}, identity: id}
	extend := func(text []byte) []byte { return bytes.Replace(text, []byte("{"), []byte("{"+more), 1) }
	say := func(name string, kind byte, body []byte) {
		all = append(all, spoken{name, append([]byte{kind}, body...)})
	}
	me := about{Boot: lb.BootID{'b'}, Address: self("b").Address, Weight: 4, Ready: true, View: 7}
	all = append(all, spoken{"about", id.seal(c.aboutContext("b", recordedAt), extend(plainJSON(signedAbout{me, version, id.next(), id.public()})))})
	mood := id.seal(c.context("saying"), extend(plainJSON(saying{Member: "b", Part: "mood", Seq: id.next(), Body: []byte("well")})))
	say("list", kindList, extend(plainJSON(list{Seed: bytes.Repeat([]byte{5}, 16), Firm: true, Epochs: []lb.Epoch{recordedEpoch}, From: "b", Said: []news{{Member: "b", Part: "mood", Seq: id.seq}}})))
	say("announce", kindAnnounce, extend(plainJSON(announce(recordedEpoch, "b"))))
	say("ask", kindAsk, extend(plainJSON(question{"b", []announcement{announce(recordedEpoch, "")}})))
	say("epochs", kindEpochs, extend(plainJSON([]lb.Epoch{recordedEpoch})))
	say("say", kindSay, mood)
	say("news", kindNews, extend(plainJSON(news{"b", "mood", id.seq, "b"})))
	say("want", kindWant, extend(plainJSON(want{"b", []news{{Member: "a", Part: "mood", Seq: 3}}})))
	say("sum", kindSum, extend(plainJSON(sum{"b", 77})))
	say("numbers", kindNumbers, extend(plainJSON(numbers{"b", []news{{Member: "b", Part: "mood", Seq: id.seq}}})))
	say("wantDocument", kindWantDocument, extend(plainJSON(wantDocument{"b", heading{lb.Generation{Counter: 3, Node: "b"}, "00"}})))
	d := Document{Generation: lb.Generation{Counter: 4, Node: "b"}, Past: []lb.Generation{{Counter: 3, Node: "a"}}, Time: time.Unix(1, 0).UTC(), By: "uid 0", Action: "apply", Text: []byte("pools: {}\n")}
	d = c.Seal(d)
	if more != "" {
		unsealed := append([]byte(d.Seal[:len(d.Seal)-sealLength()]), '}')
		d.Seal = string(id.seal(c.context("document"), extend(unsealed)))
	}
	all = append(all, spoken{"document", encodeDocument(d)})
	me.Leaving = true
	last := id.seal(c.aboutContext("b", recordedAt), plainJSON(signedAbout{me, version, id.next(), id.public()}))
	say("goodBye", kindGoodBye, extend(plainJSON(goodBye{"b", last})))
	if more != "" {
		say("unknown", 'Z', []byte(`{"x":1}`))
	}
	return all
}

// TestWhatAVersionSaysStays: what version 2 says is on the wires of clusters that
// run. Who changes it raises speaks and records the new one beside it. UPDATE=1
// writes.
func TestWhatAVersionSaysStays(t *testing.T) {
	for version, now := range map[string][]spoken{"2": said2(2, ""), "3": said2(3, `"zz":{"more":[1,"two"]},`)} {
		var text strings.Builder
		for _, m := range now {
			text.WriteString(m.name + " " + strconv.Quote(string(m.text)) + "\n")
		}
		file := filepath.Join("testdata", "messages", version+".txt")
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if was, err := os.ReadFile(file); err != nil || string(was) != text.String() {
			t.Errorf("%s is not what is said now: %v\n%s", file, err, text.String())
		}
	}
}

// TestMessagesOfOtherVersionsAreTaken gives a node what was recorded of an older,
// this and a newer version, and wants it to learn what they have in common.
func TestMessagesOfOtherVersionsAreTaken(t *testing.T) {
	for version, unknown := range map[string]uint64{"1": 0, "2": 0, "3": 1} {
		t.Run(version, func(t *testing.T) {
			n := newNetwork(t)
			a := n.start("a")
			n.agree("a=4", "a")
			kinds := map[string]bool{}
			for _, m := range messagesOf(t, version) {
				kinds[m.name] = true
				if m.name == "about" {
					if err := a.believe("b", recordedAt, m.text); err != nil {
						t.Errorf("%s: %v", m.text, err)
					}
					a.hear(peer{Member: self("b"), state: Alive, ready: true, gossip: recordedAt, since: time.Now()})
					continue
				}
				a.gossip.NotifyMsg(m.text)
			}
			if c := a.Counters(); c.Forged+c.Malformed+c.Oversized != 0 || c.Unknown != unknown {
				t.Errorf("counters %+v", c)
			}
			if a.Seed() != [16]byte(bytes.Repeat([]byte{5}, 16)) {
				t.Errorf("the seed is %x", a.Seed())
			}
			n.eventually("the epoch", func(c *Cluster) bool {
				for _, e := range c.Epochs() {
					if equalEpochs(e, recordedEpoch) {
						return true
					}
				}
				return false
			}, "a")
			if kinds["say"] && said(a.Cluster, "mood", "b") != "well" {
				t.Errorf("b's word is %q", said(a.Cluster, "mood", "b"))
			}
			if d, ok := a.Document(); kinds["document"] && (!ok || d.Generation.String() != "4@b" || string(d.Text) != "pools: {}\n" || d.By != "uid 0") {
				t.Errorf("the document is %+v", d)
			}
		})
	}
}

// TestWhatIsSaidIsReadByVersion1 reads what a node says now with the types that
// version 1 had.
func TestWhatIsSaidIsReadByVersion1(t *testing.T) {
	type about1 struct {
		Boot    lb.BootID  `json:"b"`
		Address netip.Addr `json:"a"`
		Weight  int        `json:"w"`
		Ready   bool       `json:"r,omitempty"`
		Leaving bool       `json:"l,omitempty"`
		View    uint16     `json:"v,omitempty"`
	}
	type announcement1 struct {
		Counter uint64 `json:"c"`
		Origin  string `json:"o"`
		Digest  uint64 `json:"d"`
		Holder  string `json:"h"`
	}
	type question1 struct {
		From string          `json:"f"`
		Have []announcement1 `json:"h"`
	}
	type list1 struct {
		Seed   []byte     `json:"seed"`
		Firm   bool       `json:"firm"`
		Epochs []lb.Epoch `json:"epochs"`
	}
	has := announcement1{9, "b", recordedEpoch.Digest(), ""}
	told := has
	told.Holder = "b"
	for name, want := range map[string]any{
		"about":    &about1{lb.BootID{'b'}, self("b").Address, 4, true, false, 7},
		"announce": &told,
		"ask":      &question1{"b", []announcement1{has}},
		"epochs":   &[]lb.Epoch{recordedEpoch},
		"list":     &list1{bytes.Repeat([]byte{5}, 16), true, []lb.Epoch{recordedEpoch}},
	} {
		for _, m := range messagesOf(t, "2") {
			if m.name != name {
				continue
			}
			body := m.text
			if name != "about" {
				body = body[1:]
			}
			got := reflect.New(reflect.TypeOf(want).Elem()).Interface()
			if err := json.Unmarshal(body, got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: version 1 reads %+v, %v; want %+v", name, got, err, want)
			}
		}
	}
}
