package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A copy of what is deployed, in which one thing is changed.
func changed(t *testing.T, source, file, old, new string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-R", source, folder).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	path := filepath.Join(folder, file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s does not contain %q", file, old)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), old, new)), 0o644); err != nil {
		t.Fatal(err)
	}
	return folder
}

func manifestsWith(t *testing.T, file, old, new string) string {
	folder := changed(t, "../k8s", file, old, new)
	example, err := os.ReadFile(filepath.Join(folder, "secret.env.example"))
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "secret.env"), example, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func expect(t *testing.T, findings []string, err error, meant string) {
	t.Helper()
	text := strings.Join(findings, "\n")
	if err != nil {
		text += err.Error()
	}
	if !strings.Contains(text, meant) {
		t.Errorf("%q is meant, found: %s", meant, text)
	}
}

func TestWhatIsWrongWithManifestsIsFound(t *testing.T) {
	for _, test := range []struct{ file, old, new, meant string }{
		{"statefulset.yaml", "replicas: 3", "replicas: 4", "HIGHWATER_PROCESSES is 3, replicas is 4"},
		{"statefulset.yaml", "replicas: 3", "replica: 3", "unknown field"},
		{"statefulset.yaml", "replicas: 3", "replicas: three", "cannot unmarshal"},
		{"statefulset.yaml", "serviceName: highwater", "serviceName: other", `no headless service called "other"`},
		{"statefulset.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "may do more than it needs"},
		{"statefulset.yaml", "path: /readyz, port: http", "path: /readyz, port: web", "readiness probe"},
		{"statefulset.yaml", "name: run\n              mountPath", "name: gone\n              mountPath", `no volume called "gone"`},
		{"service.yaml", "clusterIP: None", "type: ClusterIP", "no headless service"},
		{"service.yaml", "app.kubernetes.io/name: highwater", "app.kubernetes.io/name: other", "Service highwater: its selector"},
		{"disruption.yaml", "app.kubernetes.io/name: highwater", "app: highwater", "PodDisruptionBudget"},
		{"network.yaml", "port: peers", "port: pears", `no container has a port called "pears"`},
		{"hosts", "highwater-1.highwater", "highwater-1.elsewhere", "line for process 1"},
		{"hosts", "highwater-", "# highwater-", "0 lines for 3 replicas"},
		{"secret.env.example", "HIGHWATER_SECRET=", "SECRET=", "HIGHWATER_SECRET"},
		{"kustomization.yaml", "newTag: 0.1.0", "newTag: latest", "has no version"},
	} {
		findings, err := checkManifests(manifestsWith(t, test.file, test.old, test.new))
		expect(t, findings, err, test.meant)
	}
}

func TestWhatIsWrongWithComposeIsFound(t *testing.T) {
	for _, test := range []struct{ old, new, meant string }{
		{"image: apache/kafka:4.3.0", "image: apache/kafka", "has no version"},
		{"image: apache/kafka:4.3.0", "imago: apache/kafka:4.3.0", "imago"},
		{`"127.0.0.1:${HIGHWATER_KAFKA_PORT:-9092}:9092"`, `"9092:9092"`, "not on loopback"},
		{"./deploy/prometheus:", "./deploy/no-such-folder:", "does not exist"},
		{"profiles: [fleet]", "profiles: [cars]", "the profile fleet"},
		{"minio-bucket:\n    condition: service_completed_successfully", "minio:\n    condition: service_completed_successfully",
			"waits until minio has ended"},
	} {
		folder := changed(t, deployed(t), "docker-compose.yml", test.old, test.new)
		findings, err := checkCompose(filepath.Join(folder, "docker-compose.yml"))
		expect(t, findings, err, test.meant)
	}
}

func TestWhatIsWrongWithTheImageIsFound(t *testing.T) {
	for _, test := range []struct{ old, new, meant string }{
		{"USER 10001:10001", "USER root", "USER"},
		{"USER 10001:10001", "", "USER"},
		{`ENTRYPOINT ["highwater"]`, "ENTRYPOINT highwater", "ENTRYPOINT"},
		{"DEBIAN_VERSION=12.11", "DEBIAN_VERSION=stable", "has no version"},
		{"COPY --from=build", "COPYY --from=build", "COPYY"},
	} {
		folder := t.TempDir()
		text, err := os.ReadFile("../../Dockerfile")
		if err != nil {
			t.Fatal(err)
		}
		broken := strings.ReplaceAll(string(text), test.old, test.new)
		if broken == string(text) {
			t.Fatalf("the Dockerfile does not contain %q", test.old)
		}
		if err := os.WriteFile(filepath.Join(folder, "Dockerfile"), []byte(broken), 0o644); err != nil {
			t.Fatal(err)
		}
		findings, err := checkImage(folder, "")
		expect(t, findings, err, test.meant)
	}
}

// docker-compose.yml with what it mounts, and nothing of the rest, which is large.
func deployed(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, path := range []string{"docker-compose.yml", "deploy/prometheus", "deploy/grafana"} {
		target := filepath.Join(folder, filepath.Dir(path))
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-R", filepath.Join("../..", path), target).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return folder
}
