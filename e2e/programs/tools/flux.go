package main

import (
	"context"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// expressions are a kind's `healthCheckExprs` in a Flux Kustomization.
type expressions struct {
	InProgress string `json:"inProgress"`
	Failed     string `json:"failed"`
	Current    string `json:"current"`
}

// flux does what Flux does with them (its RFC 0009): a generation that is not observed is in progress, then the first
// expression that is true names the status, and where none is, it is in progress. What cannot be evaluated, such as a field of
// an object that has no status yet, is unknown, and Flux asks again.
func flux(object *unstructured.Unstructured, asked expressions) (string, error) {
	fields := object.UnstructuredContent()
	observed, found, err := unstructured.NestedInt64(fields, "status", "observedGeneration")
	if err != nil {
		return "", err
	}
	if found && observed != object.GetGeneration() {
		return "InProgress", nil
	}
	environment, err := cel.NewEnv(
		cel.HomogeneousAggregateLiterals(), cel.EagerlyValidateDeclarations(true), cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true), cel.OptionalTypes(), ext.Strings(), ext.Sets(), ext.Encoders(),
	)
	if err != nil {
		return "", err
	}
	ordered := []struct{ status, text string }{
		{"InProgress", asked.InProgress}, {"Failed", asked.Failed}, {"Current", asked.Current},
	}
	for _, one := range ordered {
		parsed, issues := environment.Parse(one.text)
		if issues != nil {
			return "", fmt.Errorf("%s: %w", one.status, issues.Err())
		}
		program, err := environment.Program(parsed)
		if err != nil {
			return "", fmt.Errorf("%s: %w", one.status, err)
		}
		value, _, err := program.ContextEval(context.Background(), fields)
		if err != nil {
			return "Unknown", nil
		}
		if value == types.True {
			return one.status, nil
		}
	}
	return "InProgress", nil
}
