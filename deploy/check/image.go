package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Parses folder/Dockerfile, and copies what an engine would be sent to context (unless that is empty), so that others
// can see whether it is enough.
func checkImage(folder, context string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(folder, "Dockerfile"))
	if err != nil {
		return nil, err
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	stages, globals, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil, err
	}
	if len(stages) < 2 {
		return []string{"Dockerfile: there is one stage: the compiler would be in the image"}, nil
	}
	findings := append(checkVersions(stages, globals), checkLast(stages[len(stages)-1])...)
	if context == "" {
		return findings, nil
	}
	return findings, copyContext(folder, context)
}

// Base images have versions, which the arguments before the first stage may hold.
func checkVersions(stages []instructions.Stage, globals []instructions.ArgCommand) []string {
	values := map[string]string{}
	for _, global := range globals {
		for _, arg := range global.Args {
			if arg.Value != nil {
				values[arg.Key] = *arg.Value
			}
		}
	}
	var findings []string
	for _, stage := range stages {
		base := os.Expand(stage.BaseName, func(name string) string { return values[name] })
		if !isPinned(base) {
			findings = append(findings, fmt.Sprintf("Dockerfile: the base image %q has no version", base))
		}
	}
	return findings
}

func checkLast(stage instructions.Stage) []string {
	user, entry := "", false
	for _, command := range stage.Commands {
		switch command := command.(type) {
		case *instructions.UserCommand:
			user = command.User
		case *instructions.EntrypointCommand:
			entry = !command.PrependShell
		}
	}
	var findings []string
	if id, _, _ := strings.Cut(user, ":"); id == "" || id == "0" || id == "root" || strings.Trim(id, "0123456789") != "" {
		findings = append(findings, fmt.Sprintf("Dockerfile: USER is %q; it has to be a number other than 0", user))
	}
	if !entry {
		findings = append(findings, "Dockerfile: ENTRYPOINT has to be a list: a shell would keep signals from highwater")
	}
	return findings
}

// Copies what .dockerignore lets through. Version control is left out as it is in no clone of CI.
func copyContext(folder, context string) error {
	file, err := os.Open(filepath.Join(folder, ".dockerignore"))
	if err != nil {
		return err
	}
	defer file.Close()
	patterns, err := ignorefile.ReadAll(file)
	if err != nil {
		return err
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		return err
	}
	return filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(folder, path)
		if err != nil || relative == "." {
			return err
		}
		isIgnored, err := ignored.MatchesOrParentMatches(relative)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "target"):
			return filepath.SkipDir
		case isIgnored || !entry.Type().IsRegular():
			return nil
		}
		return copyFile(path, filepath.Join(context, relative))
	})
}

func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
