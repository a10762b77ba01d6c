package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A pod of deploy/k8s: start.sh, with a program in the place of highwater that does what script says. How often it was
// started is the number of lines in its log.
type pod struct {
	t     *testing.T
	start string
	ended string
	log   string
	path  string
}

func newPod(t *testing.T, script string) *pod {
	t.Helper()
	folder := t.TempDir()
	start, err := filepath.Abs("../k8s/start.sh")
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(folder, "log")
	text := "#!/bin/sh\necho \"$@\" >>" + log + "\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(folder, "highwater"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return &pod{t, start, filepath.Join(folder, "ended"), log, folder + ":" + os.Getenv("PATH")}
}

func (p *pod) command() *exec.Cmd {
	command := exec.Command("/bin/sh", p.start, "run", "cars", "a b")
	command.Env = append(os.Environ(), "PATH="+p.path, "HIGHWATER_ENDED="+p.ended)
	return command
}

func (p *pod) run() int {
	p.t.Helper()
	command := p.command()
	if err := command.Run(); err != nil && command.ProcessState == nil {
		p.t.Fatal(err)
	}
	return command.ProcessState.ExitCode()
}

func (p *pod) starts() []string {
	text, _ := os.ReadFile(p.log)
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func TestEndsThatAreForGoodAreNotRepeated(t *testing.T) {
	for code, starts := range map[int]int{0: 1, 4: 1, 1: 2, 2: 2, 70: 2} {
		pod := newPod(t, "exit "+string(rune('0'+code/10))+string(rune('0'+code%10)))
		first, second := pod.run(), pod.run()
		if first != code || second != code || len(pod.starts()) != starts {
			t.Errorf("exit code %d: %d, then %d, in %d starts; %d starts are meant", code, first, second, len(pod.starts()), starts)
		}
	}
}

func TestArgumentsArePassedOnAsTheyAre(t *testing.T) {
	pod := newPod(t, `test "$3" = "a b" && exit 9`)
	if code := pod.run(); code != 9 {
		t.Errorf("exit code %d", code)
	}
}

func TestASignalReachesTheProcessAndItsEndIsAwaited(t *testing.T) {
	// It says that it is there, and takes a while to end.
	pod := newPod(t, `trap 'sleep 1; exit 143' TERM; echo ready >>`+"$HIGHWATER_ENDED.ready"+`; while :; do sleep 0.1; done`)
	command := pod.command()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	for waits := 0; waits < 300; waits++ {
		if exists(pod.ended + ".ready") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	if code := command.ProcessState.ExitCode(); code != 143 || exists(pod.ended) {
		t.Errorf("exit code %d, kept for good: %v", code, exists(pod.ended))
	}
}
