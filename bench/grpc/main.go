// Command grpc runs gRPC's own interoperability tests through lbd, and then
// 20 000 calls while lbd is upgraded again and again: none may fail.
//
//	make grpc
//
// It is a module of its own, for the tests of google.golang.org/grpc need more
// than the proxy does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

func main() {
	runtime.LockOSThread() // whose end is lbd's, see startProxy
	log.SetFlags(0)
	bin := flag.String("bin", "../../bin", "where lbd and lbctl are")
	calls := flag.Int("calls", 20_000, "of the soak")
	upgrades := flag.Int("upgrades", 20, "during the soak")
	flag.Parse()
	if err := run(*bin, *calls, *upgrades); err != nil {
		log.Fatal("grpc: ", err)
	}
}

func run(bin string, calls, upgrades int) error {
	backend, err := serve()
	if err != nil {
		return fmt.Errorf("serve gRPC: %w", err)
	}
	p, err := startProxy(bin, backend)
	if err != nil {
		return err
	}
	defer p.stop()
	conn, err := grpc.NewClient(p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := runCases(conn); err != nil {
		return err
	}
	return p.soak(conn, calls, upgrades)
}

// serve runs gRPC's test server until the process ends.
func serve() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	go s.Serve(ln)
	return ln.Addr().String(), nil
}

// runCases are all that need no cloud, no TLS identity and no server that has a
// name (pick_first_unary). A case that fails
// ends the process and says why: it is how they are written.
func runCases(conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	tc := testgrpc.NewTestServiceClient(conn)
	cases := []struct {
		name string
		do   func()
	}{
		{"empty_unary", func() { interop.DoEmptyUnaryCall(ctx, tc) }},
		{"large_unary", func() { interop.DoLargeUnaryCall(ctx, tc) }},
		{"client_streaming", func() { interop.DoClientStreaming(ctx, tc) }},
		{"server_streaming", func() { interop.DoServerStreaming(ctx, tc) }},
		{"ping_pong", func() { interop.DoPingPong(ctx, tc) }},
		{"empty_stream", func() { interop.DoEmptyStream(ctx, tc) }},
		{"timeout_on_sleeping_server", func() { interop.DoTimeoutOnSleepingServer(ctx, tc) }},
		{"cancel_after_begin", func() { interop.DoCancelAfterBegin(ctx, tc) }},
		{"cancel_after_first_response", func() { interop.DoCancelAfterFirstResponse(ctx, tc) }},
		{"status_code_and_message", func() { interop.DoStatusCodeAndMessage(ctx, tc) }},
		{"special_status_message", func() { interop.DoSpecialStatusMessage(ctx, tc) }},
		{"custom_metadata", func() { interop.DoCustomMetadata(ctx, tc) }},
		{"unimplemented_method", func() { interop.DoUnimplementedMethod(ctx, conn) }},
		{"unimplemented_service", func() { interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn)) }},
	}
	for _, c := range cases {
		fmt.Printf("%-30s ", c.name)
		c.do()
		fmt.Println("ok")
	}
	fmt.Printf("%d of %d cases\n", len(cases), len(cases))
	return ctx.Err()
}

// soak makes calls, some of them streams, while lbd is upgraded.
func (p *proxy) soak(conn *grpc.ClientConn, calls, upgrades int) error {
	tc := testgrpc.NewTestServiceClient(conn)
	var made, failed atomic.Int64
	var done atomic.Bool // the upgrades are through
	var all sync.WaitGroup
	began := time.Now()
	for range 8 {
		all.Go(func() {
			for made.Load() < int64(calls) || !done.Load() {
				n := made.Add(1)
				if err := call(tc, n); err != nil {
					if failed.Add(1) < 10 {
						log.Printf("call %d: %v", n, err)
					}
				}
				if n > int64(calls)-1000 && !done.Load() {
					time.Sleep(20 * time.Millisecond) // some are to be made after the last upgrade
				}
			}
		})
	}
	var failure error
	for i := range upgrades {
		if out, err := exec.Command(p.lbctl, "--addr", p.socket, "upgrade").CombinedOutput(); err != nil {
			failure = fmt.Errorf("upgrade %d: %w\n%s", i+1, err, out)
			break
		}
	}
	done.Store(true)
	all.Wait()
	fmt.Printf("%d calls through %d upgrades in %v: %d failed\n", made.Load(), upgrades, time.Since(began).Round(time.Second), failed.Load())
	if failed.Load() > 0 {
		failure = errors.Join(failure, fmt.Errorf("%d of %d calls failed", failed.Load(), made.Load()))
	}
	return failure
}

// call is a unary call, every tenth a stream in both directions.
func call(tc testgrpc.TestServiceClient, n int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	body := &testgrpc.Payload{Body: make([]byte, 100)}
	if n%10 != 0 {
		res, err := tc.UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseSize: 1000, Payload: body})
		if err == nil && len(res.GetPayload().GetBody()) != 1000 {
			err = errors.New("response of another size")
		}
		return err
	}
	stream, err := tc.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for range 3 {
		if err := stream.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 100}}, Payload: body}); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	return stream.CloseSend()
}

// proxy is a running lbd.
type proxy struct {
	cmd          *exec.Cmd
	dir          string
	addr, socket string
	lbctl        string
}

const document = `
node: { data_dir: "%[1]s/data", run_dir: "%[1]s/run" }
workers: { processes: 1, threads: 2 }
fastpath: { mode: off }
log: { level: error, access: off }
admin: { http: "" }
listeners: { web: { bind: "%[2]s" } }
routes: [ { pool: app } ]
pools: { app: { backends: ["%[3]s"], protocol: grpc } }
`

func startProxy(bin, backend string) (*proxy, error) {
	dir, err := os.MkdirTemp("", "grpc-")
	if err != nil {
		return nil, err
	}
	os.Chmod(dir, 0o755) // workers are somebody else
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ln.Close()
	p := &proxy{dir: dir, addr: ln.Addr().String(), socket: filepath.Join(dir, "run", "lbd.sock"), lbctl: filepath.Join(bin, "lbctl")}
	config := filepath.Join(dir, "lbd.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, document, dir, p.addr, backend), 0o644); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(filepath.Join(bin, "lbd"), "run", "-c", config)
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // a case that fails ends us at once
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for range 500 {
		if c, err := net.Dial("tcp", p.addr); err == nil {
			c.Close()
			return p, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.stop()
	return nil, fmt.Errorf("lbd does not answer at %s", p.addr)
}

func (p *proxy) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(10*time.Second, func() { p.cmd.Process.Kill() })
	p.cmd.Wait()
	kill.Stop()
	os.RemoveAll(p.dir)
}
