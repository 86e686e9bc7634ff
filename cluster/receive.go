package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// NotifyMsg takes a message of a peer. Whoever can send one holds the key.
func (g *gossip) NotifyMsg(message []byte) {
	if len(message) == 0 {
		return
	}
	var err error
	switch body := message[1:]; message[0] {
	case kindAnnounce:
		err = g.heardOf(body)
	case kindAsk:
		err = g.asked(body)
	case kindEpochs:
		err = g.received(body)
	case kindList:
		err = g.receivedList(body)
	case kindSay:
		err = g.heard(body)
	case kindNews:
		err = g.heardNews(body)
	case kindWant:
		err = g.wanted(body)
	case kindSum:
		err = g.summed(body)
	case kindNumbers:
		err = g.numbered(body)
	case kindWantDocument:
		err = g.wantedDocument(body)
	case kindDocument:
		err = g.receivedDocument(body)
	case kindGoodBye:
		err = g.bade(body)
	default:
		g.cluster.count.unknown.Add(1) // of a newer version
	}
	if err != nil {
		g.refused(err)
	}
}

// refused counts what a peer sent in vain, by why.
func (g *gossip) refused(err error) {
	n := &g.cluster.count
	switch {
	case errors.Is(err, errReplayed):
		n.replayed.Add(1) // gossip repeats itself
	case errors.Is(err, errForged):
		g.cluster.rarely(n.forged.Add(1), "gossip.refused", "forged", err.Error())
	case errors.Is(err, errOversized):
		g.cluster.rarely(n.oversized.Add(1), "gossip.refused", "oversized", err.Error())
	default:
		g.cluster.rarely(n.malformed.Add(1), "gossip.refused", "malformed", err.Error())
	}
}

// heard takes in sayings, a line each.
func (g *gossip) heard(body []byte) error {
	var errs []error
	for line := range bytes.SplitSeq(body, []byte{'\n'}) {
		s, err := parseSaying(line)
		if err == nil {
			err = g.cluster.hearSaying(s)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return worst(errs)
}

// worst is the error that says most of what a message was.
func worst(errs []error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return !errors.Is(err, errReplayed) })
	switch {
	case len(errs) == 0:
		return nil
	case i < 0:
		return errs[0]
	}
	return errs[i]
}

func (g *gossip) heardNews(body []byte) error {
	var n news
	if err := json.Unmarshal(body, &n); err != nil {
		return fmt.Errorf("read news: %w", err)
	}
	g.ask([]news{n}, n.Holder)
	return nil
}

func (g *gossip) summed(body []byte) error {
	var s sum
	if err := json.Unmarshal(body, &s); err != nil {
		return fmt.Errorf("read a sum: %w", err)
	}
	if n, to, differs := g.cluster.compare(s); differs {
		g.post(letter{to.Name, to.gossip, encode(kindNumbers, n)})
	}
	return nil
}

func (g *gossip) numbered(body []byte) error {
	var n numbers
	if err := json.Unmarshal(body, &n); err != nil {
		return fmt.Errorf("read numbers: %w", err)
	}
	g.ask(n.Said, n.From)
	return nil
}

// ask asks a holder for what we lack of the news.
func (g *gossip) ask(told []news, holder string) {
	if w, from, ok := g.cluster.lackingSayings(told, holder); ok {
		g.post(letter{from.Name, from.gossip, encode(kindWant, w)})
	}
}

func (g *gossip) wanted(body []byte) error {
	var w want
	if err := json.Unmarshal(body, &w); err != nil {
		return fmt.Errorf("read a want: %w", err)
	}
	if texts, to, ok := g.cluster.answerSayings(w); ok {
		g.post(letter{to.Name, to.gossip, append([]byte{kindSay}, bytes.Join(texts, []byte{'\n'})...)})
	}
	return nil
}

func (g *gossip) wantedDocument(body []byte) error {
	var w wantDocument
	if err := json.Unmarshal(body, &w); err != nil {
		return fmt.Errorf("read a want: %w", err)
	}
	if d, to, ok := g.cluster.giveDocument(w); ok {
		g.post(letter{to.Name, to.gossip, encodeDocument(d)})
	}
	return nil
}

func (g *gossip) receivedDocument(body []byte) error {
	d, err := decodeDocument(body)
	if err != nil {
		return err
	}
	return g.cluster.receiveDocument(d)
}

// heardOf asks for an announced epoch that is not here yet.
func (g *gossip) heardOf(body []byte) error {
	var a announcement
	if err := json.Unmarshal(body, &a); err != nil {
		return fmt.Errorf("read announcement: %w", err)
	}
	q, holder, lacking := g.cluster.question(a)
	if lacking {
		g.post(letter{holder.Name, holder.gossip, encode(kindAsk, q)})
	}
	return nil
}

func (g *gossip) asked(body []byte) error {
	q, err := decodeQuestion(body)
	if err != nil {
		return err
	}
	if epochs, from, known := g.cluster.answer(q); known && len(epochs) > 0 {
		g.post(letter{from.Name, from.gossip, encode(kindEpochs, epochs)})
	}
	return nil
}

func (g *gossip) received(body []byte) error {
	epochs, err := decodeEpochs(body)
	if err != nil {
		return err
	}
	epochs, err = g.cluster.unforged(epochs)
	g.cluster.learn(epochs)
	return err
}

func (g *gossip) receivedList(body []byte) error {
	l, err := decodeList(body)
	if err != nil {
		return err
	}
	l.Epochs, err = g.cluster.unforged(l.Epochs)
	g.cluster.adopt(l)
	g.cluster.learn(l.Epochs)
	g.ask(l.Said, l.From)
	return err
}

// bade notes who said good-bye: what memberlist then tells of is no death.
func (g *gossip) bade(body []byte) error {
	var b goodBye
	if err := json.Unmarshal(body, &b); err != nil {
		return fmt.Errorf("read a good-bye: %w", err)
	}
	c := g.cluster
	c.mu.Lock()
	p, known := c.view.peers[b.Member]
	c.mu.Unlock()
	var a signedAbout
	if err := json.Unmarshal(b.Meta, &a); err != nil || !known || len(a.Key) == 0 {
		return fmt.Errorf("a good-bye of %q: %w", b.Member, errForged)
	}
	if err := c.believe(b.Member, p.gossip, b.Meta); err != nil {
		return err
	}
	if a.Leaving {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.goodByes[b.Member] = a.Seq
	}
	return nil
}

// leaves reports whether a node that is gone said so; one that has said more
// since has come back.
func (c *Cluster) leaves(name string, a signedAbout) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	seq, bade := c.goodByes[name]
	if bade && a.Seq > seq && !a.Leaving {
		delete(c.goodByes, name)
		return false
	}
	return bade || a.Leaving
}
