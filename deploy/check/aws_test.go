package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A folder of programs that stand for those of AWS and Docker, and write down what they were asked.
type fakes struct {
	t      *testing.T
	folder string
}

func newFakes(t *testing.T, scripts map[string]string) *fakes {
	t.Helper()
	folder := t.TempDir()
	for name, script := range scripts {
		text := "#!/bin/bash\nprintf '%s\\0' \"$@\" >>" + filepath.Join(folder, name+".asked") + "\n" + script + "\n"
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &fakes{t, folder}
}

func (f *fakes) run(path string, variables []string, args ...string) (string, int) {
	f.t.Helper()
	command := exec.Command(path, args...)
	command.Env = append(os.Environ(), append(variables, "PATH="+f.folder+":"+os.Getenv("PATH"))...)
	out, err := command.CombinedOutput()
	if err != nil && command.ProcessState == nil {
		f.t.Fatal(err)
	}
	return string(out), command.ProcessState.ExitCode()
}

func (f *fakes) asked(name string) []string {
	text, _ := os.ReadFile(filepath.Join(f.folder, name+".asked"))
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// The script of a host, with folders of the test in the place of the host's.
func hostScript(t *testing.T, folder string) string {
	t.Helper()
	text, err := os.ReadFile("../aws/job/host/start.sh")
	if err != nil {
		t.Fatal(err)
	}
	script := string(text)
	for old, new := range map[string]string{
		"/run/highwater/secrets":    filepath.Join(folder, "secrets"),
		"=/var/lib/highwater":       "=" + filepath.Join(folder, "data"),
		"/etc/highwater/job.toml\n": filepath.Join(folder, "job.toml") + "\n",
		"chown -R 10001:10001":      "true",
	} {
		script = strings.ReplaceAll(script, old, new)
	}
	path := filepath.Join(folder, "start")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

var hostVariables = []string{
	"AWS_REGION=us-east-1", "HIGHWATER_PIPELINE=cars", "HIGHWATER_PROCESSES=3", "HIGHWATER_PROCESS=1",
	"HIGHWATER_PEER_PORT=2101", "HIGHWATER_IMAGE=registry/highwater@sha256:0", "HIGHWATER_BUCKET=bucket",
	"HIGHWATER_CONFIG_KEY=config/cars.toml", "HIGHWATER_KAFKA_SECRET=kafka-arn",
	"HIGHWATER_CLUSTER_SECRET=cluster-arn", "HIGHWATER_LOG_GROUP=/highwater/cars",
}

const givesSecrets = `case "$*" in
*kafka-arn*) echo '{"username": "highwater", "password": "of-kafka"}' ;;
*cluster-arn*) echo of-the-cluster ;;
esac`

func TestAHostBecomesOneProcess(t *testing.T) {
	fakes := newFakes(t, map[string]string{"aws": givesSecrets, "docker": `[[ $1 != run ]] || exit 4`})
	out, code := fakes.run(hostScript(t, fakes.folder), hostVariables)
	if code != 4 {
		t.Errorf("its exit code is that of highwater, not %d: %s", code, out)
	}
	asked := strings.Join(fakes.asked("docker"), " ")
	want := "registry/highwater@sha256:0 run cars --config=/etc/highwater/job.toml --processes=3 --process=1 " +
		"--hostfile=/etc/highwater/hosts --secret-file=/run/secrets/cluster --bind=0.0.0.0:2101"
	if !strings.HasSuffix(asked, want) {
		t.Errorf("docker was asked for %s", asked)
	}
	for name, want := range map[string]string{"cluster": "of-the-cluster\n", "kafka-password": "of-kafka\n"} {
		path := filepath.Join(fakes.folder, "secrets", name)
		text, err := os.ReadFile(path)
		if err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		if info, err := os.Stat(path); err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s can be read by others: %v", name, info.Mode())
		}
	}
	if strings.Contains(asked, "of-kafka") || strings.Contains(asked, "of-the-cluster") {
		t.Errorf("a command line shows a secret: %s", asked)
	}
}

// 2 and 4 mean that systemd is not to try again; what comes before highwater must not say so by accident.
func TestWhatFailsBeforeIsTriedAgain(t *testing.T) {
	for _, code := range []string{"2", "4", "254"} {
		for _, part := range []string{"get-secret-value", "s3", "ecr"} {
			fails := "case \"$*\" in *" + part + "*) exit " + code + " ;; esac\n" + givesSecrets
			fakes := newFakes(t, map[string]string{"aws": fails, "docker": `[[ $1 != image ]] || exit 1`})
			if out, got := fakes.run(hostScript(t, fakes.folder), hostVariables); got != 1 {
				t.Errorf("%s ends with %s: exit code %d: %s", part, code, got, out)
			}
		}
	}
}

func TestPreparingRunsNothing(t *testing.T) {
	fakes := newFakes(t, map[string]string{"aws": givesSecrets, "docker": `[[ $1 != run ]] || exit 9`})
	if out, code := fakes.run(hostScript(t, fakes.folder), hostVariables, "prepare"); code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
}

const twoHosts = `case "$*" in
*instances*) echo '["i-0","i-1"]' ;;
*brokers*) echo b-1:9096,b-2:9096 ;;
esac`

const answers = `case "$*" in
*send-command*) echo command-7 ;;
*Status*) echo ${STATE:-Success} ;;
*StandardOutputContent*) echo done ;;
*StandardErrorContent*) echo because ;;
esac`

func parametersOf(t *testing.T, asked []string) string {
	t.Helper()
	for i, word := range asked {
		if word == "--parameters" {
			var parameters struct{ Commands []string }
			if err := json.Unmarshal([]byte(asked[i+1]), &parameters); err != nil {
				t.Fatalf("%v: %s", err, asked[i+1])
			}
			return strings.Join(parameters.Commands, "\n")
		}
	}
	t.Fatalf("nothing was sent: %v", asked)
	return ""
}

func TestCommandsGoToAllHosts(t *testing.T) {
	fakes := newFakes(t, map[string]string{"terraform": twoHosts, "aws": answers})
	out, code := fakes.run("../aws/run", nil, "stop")
	asked := fakes.asked("aws")
	if code != 0 || !strings.Contains(strings.Join(asked, " "), "--instance-ids i-0 i-1 --parameters") {
		t.Errorf("exit code %d, %v: %s", code, asked, out)
	}
	if command := parametersOf(t, asked); command != "systemctl disable --now highwater" {
		t.Error(command)
	}
}

func TestATopicIsViewedOnTheFirstHostWhateverItsFlags(t *testing.T) {
	fakes := newFakes(t, map[string]string{"terraform": twoHosts, "aws": answers})
	out, code := fakes.run("../aws/run", nil, "view", "alert-data", "--start", `a "b" \c`)
	asked := fakes.asked("aws")
	if all := strings.Join(asked, " "); code != 0 || !strings.Contains(all, "--instance-ids i-0 --parameters") {
		t.Errorf("exit code %d, %s: %s", code, all, out)
	}
	want := `highwater-tool view kafka://b-1:9096\,b-2:9096/alert-data --start a\ \"b\"\ \\c`
	if command := parametersOf(t, asked); command != want {
		t.Errorf("%s\nis not\n%s", command, want)
	}
}

func TestAFailureOnAHostIsOne(t *testing.T) {
	fakes := newFakes(t, map[string]string{"terraform": twoHosts, "aws": answers})
	out, code := fakes.run("../aws/run", []string{"STATE=Failed"}, "stop")
	if code != 1 || !strings.Contains(out, "because") || !strings.Contains(out, "i-1: Failed") {
		t.Errorf("exit code %d: %s", code, out)
	}
}
