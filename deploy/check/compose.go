package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// The pipelines, each with a profile and a service of its name.
var pipelines = []string{"cars", "fleet", "factory", "turnstile"}

func loadCompose(file string) (*types.Project, error) {
	// The environment of whoever checks changes nothing.
	options, err := cli.NewProjectOptions([]string{file}, cli.WithProfiles([]string{"*"}), cli.WithInterpolation(true))
	if err != nil {
		return nil, err
	}
	return options.LoadProject(context.Background())
}

func checkCompose(file string) ([]string, error) {
	project, err := loadCompose(file)
	if err != nil {
		return nil, err
	}
	var findings []string
	for _, service := range servicesOf(project) {
		findings = append(findings, checkService(project, service)...)
	}
	for _, pipeline := range pipelines {
		if service, ok := project.Services[pipeline]; !ok || !slices.Contains(service.Profiles, pipeline) {
			findings = append(findings, fmt.Sprintf("there is no service %s with the profile %s", pipeline, pipeline))
		}
	}
	return findings, nil
}

// In the order of their names, so that findings come in the same order each time.
func servicesOf(project *types.Project) []types.ServiceConfig {
	var services []types.ServiceConfig
	for _, service := range project.Services {
		services = append(services, service)
	}
	sort.Slice(services, func(i, j int) bool { return services[i].Name < services[j].Name })
	return services
}

func checkService(project *types.Project, service types.ServiceConfig) []string {
	var findings []string
	wrong := func(format string, values ...any) {
		findings = append(findings, service.Name+": "+fmt.Sprintf(format, values...))
	}
	if !isPinned(service.Image) {
		wrong("the image %q has no version", service.Image)
	}
	for _, port := range service.Ports {
		if ip := net.ParseIP(port.HostIP); ip == nil || !ip.IsLoopback() {
			wrong("port %s is published on %q, not on loopback", port.Published, port.HostIP)
		}
	}
	for _, volume := range service.Volumes {
		if volume.Type == types.VolumeTypeBind && !exists(volume.Source) {
			wrong("%s is mounted and does not exist", volume.Source)
		}
	}
	if isAsked := service.HealthCheck != nil; !isAsked && !runsOnce(service) {
		wrong("it has no health check")
	}
	for name, dependency := range service.DependsOn {
		on := project.Services[name]
		isDisabled := on.HealthCheck == nil || on.HealthCheck.Disable
		switch {
		case dependency.Condition == types.ServiceConditionHealthy && isDisabled:
			wrong("waits until %s is healthy, which has no health check", name)
		case dependency.Condition == types.ServiceConditionCompletedSuccessfully && !runsOnce(on):
			wrong("waits until %s has ended, which goes on", name)
		}
		if len(on.Profiles) > 0 && !isSubset(service.Profiles, on.Profiles) {
			wrong("depends on %s, which has other profiles", name)
		}
	}
	return findings
}

// A tag other than latest, or a digest. The image that is built here is named for this machine.
func isPinned(image string) bool {
	if image == "highwater:local" || strings.Contains(image, "@sha256:") {
		return true
	}
	name := image[strings.LastIndex(image, "/")+1:]
	_, tag, ok := strings.Cut(name, ":")
	return ok && tag != "latest" && strings.ContainsAny(tag, "0123456789")
}

func runsOnce(service types.ServiceConfig) bool { return service.Restart == types.RestartPolicyNo }

// A service without profiles is always there.
func isSubset(some, all []string) bool {
	return len(some) > 0 && !slices.ContainsFunc(some, func(one string) bool { return !slices.Contains(all, one) })
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func composeCommands(file string) error {
	project, err := loadCompose(file)
	if err != nil {
		return err
	}
	for _, service := range servicesOf(project) {
		if service.Build != nil {
			fmt.Println(service.Name + "\t" + strings.Join(service.Command, "\t"))
		}
	}
	return nil
}
