package l7

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// A flight recorder is memory that outlives its process: the last requests of
// each thread, and its counters, for whoever looks after a crash. Each thread
// writes its own part, with plain stores; a reader that comes after the process's
// end sees them all.
const (
	flightMagic   = 0x6c626466 // and the layout's version
	flightVersion = 1
	flightHead    = 64
	flightRecords = 64 // of a thread
	flightRecord  = 160
	flightText    = 40 // where a record's text begins
	flightThread  = flightHead + flightRecords*flightRecord
)

// FlightSize is how much memory the recorder of so many threads takes.
func FlightSize(threads int) int { return flightHead + threads*flightThread }

// flight is one thread's part: counters, then a ring of records. The zero value
// records nothing.
type flight struct {
	mem   []byte
	begun uint64
	ended uint64
	bad   uint64 // of those that ended: 5xx, or no response
}

// newFlights divides memory among threads.
func newFlights(mem []byte, threads int) []flight {
	all := make([]flight, threads)
	if len(mem) < FlightSize(threads) {
		return all
	}
	for i := range all {
		at := flightHead + i*flightThread
		all[i].mem = mem[at : at+flightThread : at+flightThread]
	}
	binary.LittleEndian.PutUint32(mem[4:], flightVersion)
	binary.LittleEndian.PutUint32(mem[8:], uint32(threads))
	binary.LittleEndian.PutUint32(mem, flightMagic)
	return all
}

// begin records a request that is under way, and returns its number.
func (f *flight) begin(s *Session) uint64 {
	if f.mem == nil {
		return 0
	}
	f.begun++
	r := f.record(f.begun)
	le := binary.LittleEndian
	le.PutUint64(r, f.begun)
	le.PutUint64(r[8:], uint64(s.Start.UnixNano()))
	le.PutUint64(r[16:], ^uint64(0))
	le.PutUint16(r[24:], 0)
	text := r[flightText:flightText]
	for i, part := range [...]string{s.Request.Method, s.Request.Listener, s.routeName(), pathOf(s.Request.Target)} {
		text = append(text, part[:min(len(part), cap(text)-len(text), 48)]...)
		r[32+i] = byte(len(text))
	}
	le.PutUint64(f.mem, f.begun)
	return f.begun
}

// end completes the record, unless others took its place meanwhile.
func (f *flight) end(number uint64, status int, took time.Duration) {
	if f.mem == nil || number == 0 {
		return
	}
	le := binary.LittleEndian
	f.ended++
	le.PutUint64(f.mem[8:], f.ended)
	if status == 0 || status >= 500 {
		f.bad++
		le.PutUint64(f.mem[16:], f.bad)
	}
	if r := f.record(number); le.Uint64(r) == number {
		le.PutUint64(r[16:], uint64(took))
		le.PutUint16(r[24:], uint16(status))
	}
}

func (f *flight) record(number uint64) []byte {
	at := flightHead + int(number%flightRecords)*flightRecord
	return f.mem[at : at+flightRecord : at+flightRecord]
}

func (s *Session) routeName() string {
	if s.Route == nil {
		return ""
	}
	return s.Route.Name
}

// pathOf leaves the query out, which may hold what nobody shall read.
func pathOf(target string) string {
	path, _, _ := strings.Cut(target, "?")
	return path
}

// ReadFlight reads a recorder: the last requests of all threads, newest first,
// and the sums of their counters. What is no recorder holds nothing.
func ReadFlight(mem []byte) (f lb.Flight) {
	f.Requests = []lb.FlightRequest{} // a list even where it is empty: JSON's readers count on it
	le := binary.LittleEndian
	if len(mem) < flightHead || le.Uint32(mem) != flightMagic || le.Uint32(mem[4:]) != flightVersion {
		return f
	}
	threads := int(le.Uint32(mem[8:]))
	if threads > len(mem)/flightThread {
		return f
	}
	for t := range threads {
		part := mem[flightHead+t*flightThread:]
		f.Begun += le.Uint64(part)
		f.Ended += le.Uint64(part[8:])
		f.Failed += le.Uint64(part[16:])
		for i := range flightRecords {
			if r, ok := readRecord(part[flightHead+i*flightRecord:][:flightRecord]); ok {
				r.Thread = t
				f.Requests = append(f.Requests, r)
			}
		}
	}
	slices.SortStableFunc(f.Requests, func(a, b lb.FlightRequest) int { return b.Time.Compare(a.Time) })
	return f
}

func readRecord(r []byte) (lb.FlightRequest, bool) {
	le := binary.LittleEndian
	if le.Uint64(r) == 0 {
		return lb.FlightRequest{}, false
	}
	var parts [4]string
	from := 0
	for i := range parts {
		to := int(r[32+i])
		if to < from || to > flightRecord-flightText { // it died as it wrote this
			return lb.FlightRequest{}, false
		}
		parts[i] = string(bytes.ToValidUTF8(r[flightText+from:flightText+to], []byte("?")))
		from = to
	}
	out := lb.FlightRequest{Time: time.Unix(0, int64(le.Uint64(r[8:]))).UTC(), Method: parts[0], Listener: parts[1], Route: parts[2], Path: parts[3]}
	if took := le.Uint64(r[16:]); took == ^uint64(0) {
		out.UnderWay = true
	} else {
		out.Took, out.Status = time.Duration(took), int(le.Uint16(r[24:]))
	}
	return out, true
}
