package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// The exit codes after which start.sh does not start a process again are tested in start_test.go.

const (
	processesVariable = "HIGHWATER_PROCESSES"
	secretVariable    = "HIGHWATER_SECRET"
)

// Everything that `kubectl apply -k` would send, of the kinds that are understood here.
type manifests struct {
	sets       []*appsv1.StatefulSet
	services   []*corev1.Service
	configs    []*corev1.ConfigMap
	secrets    []*corev1.Secret
	accounts   []*corev1.ServiceAccount
	budgets    []*policyv1.PodDisruptionBudget
	policies   []*networkingv1.NetworkPolicy
	namespaces []*corev1.Namespace
}

func render(folder string) ([]byte, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return nil, err
	}
	return built.AsYaml()
}

func checkManifests(folder string) ([]string, error) {
	objects, err := load(folder)
	if err != nil {
		return nil, err
	}
	if len(objects.sets) != 1 || len(objects.budgets) != 1 || len(objects.policies) != 1 || len(objects.namespaces) != 1 {
		return nil, fmt.Errorf("%s: one StatefulSet, PodDisruptionBudget, NetworkPolicy and Namespace are meant", folder)
	}
	set := objects.sets[0]
	findings := slices.Concat(
		objects.checkNames(set),
		objects.checkSelectors(set),
		objects.checkNumber(set),
		checkContainers(set.Spec.Template.Spec),
	)
	return findings, nil
}

// Reads the objects strictly: a field that Kubernetes does not have is an error, as is one of the wrong type.
func load(folder string) (*manifests, error) {
	text, err := render(folder)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	objects := &manifests{}
	for _, document := range bytes.Split(text, []byte("\n---\n")) {
		object, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			first, _, _ := bytes.Cut(document, []byte("\nspec:"))
			return nil, fmt.Errorf("%w in\n%s", err, first)
		}
		switch object := object.(type) {
		case *appsv1.StatefulSet:
			objects.sets = append(objects.sets, object)
		case *corev1.Service:
			objects.services = append(objects.services, object)
		case *corev1.ConfigMap:
			objects.configs = append(objects.configs, object)
		case *corev1.Secret:
			objects.secrets = append(objects.secrets, object)
		case *corev1.ServiceAccount:
			objects.accounts = append(objects.accounts, object)
		case *policyv1.PodDisruptionBudget:
			objects.budgets = append(objects.budgets, object)
		case *networkingv1.NetworkPolicy:
			objects.policies = append(objects.policies, object)
		case *corev1.Namespace:
			objects.namespaces = append(objects.namespaces, object)
		default:
			return nil, fmt.Errorf("%s: nothing here knows what to check of it", kind)
		}
	}
	return objects, nil
}

// Whatever the pods refer to by its name is there.
func (m *manifests) checkNames(set *appsv1.StatefulSet) []string {
	var findings []string
	need := func(what, name string, found bool) {
		if !found {
			findings = append(findings, fmt.Sprintf("StatefulSet %s: there is no %s called %q", set.Name, what, name))
		}
	}
	hasConfig := func(name string) bool {
		return slices.ContainsFunc(m.configs, func(c *corev1.ConfigMap) bool { return c.Name == name })
	}
	hasSecret := func(name string) bool {
		return slices.ContainsFunc(m.secrets, func(s *corev1.Secret) bool { return s.Name == name })
	}
	pod := set.Spec.Template.Spec
	need("headless service", set.Spec.ServiceName, slices.ContainsFunc(m.services, func(s *corev1.Service) bool {
		return s.Name == set.Spec.ServiceName && s.Spec.ClusterIP == corev1.ClusterIPNone && s.Spec.PublishNotReadyAddresses
	}))
	need("service account", pod.ServiceAccountName, slices.ContainsFunc(m.accounts, func(a *corev1.ServiceAccount) bool {
		return a.Name == pod.ServiceAccountName
	}))
	var volumes []string
	for _, volume := range pod.Volumes {
		volumes = append(volumes, volume.Name)
		if volume.ConfigMap != nil {
			need("config map", volume.ConfigMap.Name, hasConfig(volume.ConfigMap.Name))
		}
	}
	for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, mount := range container.VolumeMounts {
			need("volume", mount.Name, slices.Contains(volumes, mount.Name))
		}
		for _, source := range container.EnvFrom {
			if source.SecretRef != nil {
				need("secret", source.SecretRef.Name, hasSecret(source.SecretRef.Name))
			}
		}
	}
	for _, secret := range m.secrets {
		_, ok := secret.Data[secretVariable]
		need("key of the secret", secretVariable, ok)
	}
	return findings
}

// Set, service, budget and policy mean the same pods; ports that they name are ports of these.
func (m *manifests) checkSelectors(set *appsv1.StatefulSet) []string {
	var findings []string
	pod := labels.Set(set.Spec.Template.Labels)
	matches := func(what string, selector map[string]string) {
		if len(selector) == 0 || !labels.SelectorFromSet(selector).Matches(pod) {
			findings = append(findings, fmt.Sprintf("%s: its selector does not mean the pods of StatefulSet %s", what, set.Name))
		}
	}
	ports := map[string]int32{}
	for _, container := range set.Spec.Template.Spec.Containers {
		for _, port := range container.Ports {
			ports[port.Name] = port.ContainerPort
		}
	}
	named := func(what, port string) {
		if _, ok := ports[port]; !ok {
			findings = append(findings, fmt.Sprintf("%s: no container has a port called %q", what, port))
		}
	}
	matches("StatefulSet", set.Spec.Selector.MatchLabels)
	for _, service := range m.services {
		matches("Service "+service.Name, service.Spec.Selector)
		for _, port := range service.Spec.Ports {
			named("Service "+service.Name, port.TargetPort.StrVal)
		}
	}
	matches("PodDisruptionBudget", m.budgets[0].Spec.Selector.MatchLabels)
	matches("NetworkPolicy", m.policies[0].Spec.PodSelector.MatchLabels)
	for _, rule := range m.policies[0].Spec.Ingress {
		for _, port := range rule.Ports {
			named("NetworkPolicy", port.Port.StrVal)
		}
	}
	return findings
}

// The number of processes is the same wherever it stands, and the hostfile names each pod in its order.
func (m *manifests) checkNumber(set *appsv1.StatefulSet) []string {
	if set.Spec.Replicas == nil {
		return []string{"StatefulSet: replicas is missing"}
	}
	replicas := int(*set.Spec.Replicas)
	var findings []string
	for _, variable := range set.Spec.Template.Spec.Containers[0].Env {
		if variable.Name == processesVariable && variable.Value != fmt.Sprint(replicas) {
			findings = append(findings, fmt.Sprintf("%s is %s, replicas is %d", processesVariable, variable.Value, replicas))
		}
	}
	var hosts []string
	for _, config := range m.configs {
		for _, line := range strings.Split(config.Data["hosts"], "\n") {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line != "" {
				hosts = append(hosts, line)
			}
		}
	}
	if len(hosts) < replicas {
		findings = append(findings, fmt.Sprintf("hosts has %d lines for %d replicas", len(hosts), replicas))
	}
	for i, host := range hosts {
		if want := fmt.Sprintf("%s-%d.%s:", set.Name, i, set.Spec.ServiceName); !strings.HasPrefix(host, want) {
			findings = append(findings, fmt.Sprintf("hosts: line for process %d is %s, not %sPORT", i, host, want))
		}
	}
	return findings
}

// What the restricted security standard asks of pods, and probes at ports that are there.
func checkContainers(pod corev1.PodSpec) []string {
	var findings []string
	wrong := func(name, text string) { findings = append(findings, "container "+name+": "+text) }
	if security := pod.SecurityContext; security == nil || security.RunAsNonRoot == nil || !*security.RunAsNonRoot {
		findings = append(findings, "pods may run as root")
	}
	for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
		security := container.SecurityContext
		if security == nil || security.AllowPrivilegeEscalation == nil || *security.AllowPrivilegeEscalation ||
			security.ReadOnlyRootFilesystem == nil || !*security.ReadOnlyRootFilesystem ||
			security.Capabilities == nil || !slices.Contains(security.Capabilities.Drop, "ALL") {
			wrong(container.Name, "it may do more than it needs (securityContext)")
		}
		if !isPinned(container.Image) {
			wrong(container.Name, fmt.Sprintf("its image %q has no version", container.Image))
		}
	}
	for _, container := range pod.Containers {
		probes := map[string]*corev1.Probe{
			"startup": container.StartupProbe, "liveness": container.LivenessProbe, "readiness": container.ReadinessProbe,
		}
		for name, probe := range probes {
			if probe == nil || probe.HTTPGet == nil || !slices.ContainsFunc(container.Ports, func(port corev1.ContainerPort) bool {
				return port.Name == probe.HTTPGet.Port.StrVal
			}) {
				wrong(container.Name, "its "+name+" probe asks at no port of it")
			}
		}
	}
	return findings
}

// Command lines of highwater, with what Kubernetes would put into them; files of the config map are
// those of the folder.
func manifestCommands(folder string) error {
	objects, err := load(folder)
	if err != nil {
		return err
	}
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	for _, set := range objects.sets {
		pod := set.Spec.Template.Spec
		for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
			values := map[string]string{"HIGHWATER_PROCESS": "0"}
			for _, variable := range container.Env {
				if variable.Value != "" {
					values[variable.Name] = variable.Value
				}
			}
			var words []string
			for _, word := range container.Args {
				for name, value := range values {
					word = strings.ReplaceAll(word, "$("+name+")", value)
				}
				words = append(words, strings.ReplaceAll(word, "/etc/highwater", absolute))
			}
			fmt.Fprintln(os.Stdout, container.Name+"\t"+strings.Join(words, "\t"))
		}
	}
	return nil
}
