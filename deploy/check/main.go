// Command check validates what deploys highwater, without an engine or a cluster: docker-compose.yml
// by Compose's own loader, the Dockerfile by BuildKit's own parser, the manifests by kustomize and the types of
// Kubernetes. `dev/check-deploy` runs it, with tools of other kinds.
//
//	check compose FILE            one line per finding; exit 1 when there is any
//	check image FOLDER            Dockerfile and .dockerignore; copies of the context go to $CONTEXT
//	check k8s FOLDER              the objects that `kubectl apply -k` would send
//	check render-k8s FOLDER       prints them
//	check commands compose FILE   every command line of highwater, its words separated by tabs
//	check commands k8s FOLDER
package main

import (
	"fmt"
	"os"
)

func main() {
	findings, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "check: %v\n", err)
		os.Exit(2)
	}
	for _, finding := range findings {
		fmt.Println(finding)
	}
	if len(findings) > 0 {
		os.Exit(1)
	}
}

func run(args []string) ([]string, error) {
	switch {
	case len(args) == 2 && args[0] == "compose":
		return checkCompose(args[1])
	case len(args) == 2 && args[0] == "image":
		return checkImage(args[1], os.Getenv("CONTEXT"))
	case len(args) == 2 && args[0] == "k8s":
		return checkManifests(args[1])
	case len(args) == 2 && args[0] == "render-k8s":
		text, err := render(args[1])
		os.Stdout.Write(text)
		return nil, err
	case len(args) == 3 && args[0] == "commands" && args[1] == "compose":
		return nil, composeCommands(args[2])
	case len(args) == 3 && args[0] == "commands" && args[1] == "k8s":
		return nil, manifestCommands(args[2])
	}
	return nil, fmt.Errorf("usage: check compose FILE | image FOLDER | k8s FOLDER | render-k8s FOLDER | commands compose|k8s PATH")
}
