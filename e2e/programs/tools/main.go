// Command tools answers what the packaging checks ask, one JSON value on standard output:
//
//	tools kustomize FOLDER   the objects of a kustomization
//	tools objects            the objects of YAML documents on standard input
//	tools health             for each {"object": ..., "lua": ..., "cel": ...} on standard input, what Argo CD, kstatus and Flux say of it
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tools:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 2 && arguments[0] == "kustomize":
		return kustomize(arguments[1])
	case len(arguments) == 1 && arguments[0] == "objects":
		objects, err := objectsOf(os.Stdin)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(objects)
	case len(arguments) == 1 && arguments[0] == "health":
		return health()
	}
	return errors.New("usage: tools kustomize FOLDER | tools objects | tools health")
}

// kustomize does what `kubectl kustomize FOLDER` does.
func kustomize(folder string) error {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return err
	}
	text, err := built.AsYaml()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

// objectsOf reads YAML documents; those that hold nothing but comments are left out.
func objectsOf(from io.Reader) ([]map[string]any, error) {
	objects := []map[string]any{}
	decoder := yaml.NewYAMLOrJSONDecoder(bufio.NewReader(from), 1<<16)
	for {
		var object map[string]any
		switch err := decoder.Decode(&object); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		case len(object) > 0:
			objects = append(objects, object)
		}
	}
}

// question is an object as the API server stores it, the script of its kind and, where its kind has some, the expressions.
type question struct {
	Object *unstructured.Unstructured `json:"object"`
	Lua    string                     `json:"lua"`
	Cel    *expressions               `json:"cel"`
}

// answer is what the tools show of the object. Flux goes by kstatus where a kind has no expressions.
type answer struct {
	Argo    verdict `json:"argo"`
	Kstatus verdict `json:"kstatus"`
	Flux    string  `json:"flux"`
}

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func health() error {
	decoder := json.NewDecoder(os.Stdin)
	encoder := json.NewEncoder(os.Stdout)
	for {
		var asked question
		if err := decoder.Decode(&asked); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		shown, err := argo(asked.Object, asked.Lua)
		if err != nil {
			return fmt.Errorf("%s: the script: %w", asked.Object.GetName(), err)
		}
		computed, err := status.Compute(asked.Object)
		if err != nil {
			return fmt.Errorf("%s: kstatus: %w", asked.Object.GetName(), err)
		}
		said := verdict{Status: computed.Status.String(), Message: computed.Message}
		checked := said.Status
		if asked.Cel != nil {
			checked, err = flux(asked.Object, *asked.Cel)
			if err != nil {
				return fmt.Errorf("%s: healthCheckExprs: %w", asked.Object.GetName(), err)
			}
		}
		if err := encoder.Encode(answer{Argo: shown, Kstatus: said, Flux: checked}); err != nil {
			return err
		}
	}
}
