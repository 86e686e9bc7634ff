package health

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// probeGRPC calls grpc.health.v1.Health/Check. Its two messages have one field
// each, so they are written and read by hand.
func probeGRPC(ctx context.Context, conn net.Conn, t Target) (saw string, err error) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // conn has done its TLS handshake already
	var taken atomic.Bool
	client := &http.Transport{
		Protocols: protocols, DisableCompression: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if taken.Swap(true) {
				return nil, errors.New("connection closed early")
			}
			return conn, nil
		},
	}
	defer client.CloseIdleConnections()
	url := "http://" + cmp.Or(t.Check.Host, authority(t.ID.Address)) + "/grpc.health.v1.Health/Check"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(checkRequest(*t.Check.GRPC)))
	if err != nil {
		return "", fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("content-type", "application/grpc")
	req.Header.Set("te", "trailers")
	res, err := client.RoundTrip(req)
	if err != nil {
		return "", plain("call", err, t.Check.Timeout)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return "", plain("read response", err, t.Check.Timeout)
	}
	return serving(res, body)
}

// checkRequest is HealthCheckRequest{service: 1} in a gRPC frame.
func checkRequest(service string) []byte {
	var message []byte
	if service != "" {
		message = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(service))), service...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// serving reads HealthCheckResponse{status: 1}, where SERVING is 1.
func serving(res *http.Response, body []byte) (saw string, err error) {
	code := cmp.Or(res.Trailer.Get("grpc-status"), res.Header.Get("grpc-status"))
	switch {
	case res.StatusCode != http.StatusOK:
		return "", fmt.Errorf("status %d, expected 200", res.StatusCode)
	case code != "0":
		return "", fmt.Errorf("grpc-status %q %s", code, cmp.Or(res.Trailer.Get("grpc-message"), res.Header.Get("grpc-message")))
	case bytes.Equal(body, []byte{0, 0, 0, 0, 2, 1 << 3, 1}):
		return "serving", nil
	}
	return "", fmt.Errorf("not serving (answer %x)", body[:min(len(body), 16)])
}
