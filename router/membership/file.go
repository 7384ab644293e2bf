package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// Adopter follows the group. Adopt is called from one goroutine, with a copy that is the adopter's own; stale says that
// the API server has not confirmed it yet. It must not block for long: the next change waits for it.
type Adopter interface {
	Adopt(group *v1alpha1.WorkerGroup, stale bool)
}

const (
	// pollInterval is how often the file is looked at. A change counts when two looks in a row saw the same bytes, so that
	// a half-written file is never adopted.
	pollInterval = 500 * time.Millisecond
	// maxDocument bounds what is read of a config file or of the persisted spec.
	maxDocument = 1 << 20
)

// FileConfig of a File.
type FileConfig struct {
	// Path of a YAML file with the fields of WorkerGroup.spec.
	Path string
	// Adopter gets every good version of the file.
	Adopter Adopter
	// Clock of the poll; the real one when nil.
	Clock clock.WithTicker
	// Log gets one entry for each change, good or bad.
	Log logr.Logger
}

// File is the source of a router that runs without Kubernetes.
type File struct {
	config     FileConfig
	first      *v1alpha1.WorkerGroupSpec
	judged     []byte // the bytes last adopted or refused
	unsettled  []byte // other bytes, seen once
	unreadable string // the last reason why the file could not be read, told once
	generation int64
}

// NewFile reads the file once: a router does not start on a bad one. The error lists every bad field.
func NewFile(config FileConfig) (*File, error) {
	if config.Adopter == nil {
		return nil, errors.New("membership: FileConfig.Adopter is not set")
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	document, err := readBounded(config.Path)
	if err != nil {
		return nil, fmt.Errorf("config file: %w", err)
	}
	spec, err := decodeSpec(document)
	if err != nil {
		return nil, fmt.Errorf("config file %s: %w", config.Path, err)
	}
	return &File{config: config, first: spec, judged: document}, nil
}

// Run hands the file's content to the adopter, then each later version of it, until ctx ends. It returns nil. A version
// that is bad, or a file that is gone, is logged once and the last good one stays.
func (f *File) Run(ctx context.Context) error {
	f.adopt(f.first)
	ticker := f.config.Clock.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			f.look()
		}
	}
}

func (f *File) look() {
	document, err := readBounded(f.config.Path)
	if err != nil {
		if f.unreadable != err.Error() {
			f.unreadable = err.Error()
			f.config.Log.Error(err, "config file cannot be read; the last good version stays in force", "file", f.config.Path)
		}
		return
	}
	f.unreadable = ""
	if bytes.Equal(document, f.judged) {
		f.unsettled = nil
		return
	}
	if f.unsettled == nil || !bytes.Equal(document, f.unsettled) {
		f.unsettled = document
		return
	}
	f.judged, f.unsettled = document, nil
	spec, err := decodeSpec(document)
	if err != nil {
		f.config.Log.Error(err, "config file not adopted; the last good version stays in force", "file", f.config.Path)
		return
	}
	f.adopt(spec)
}

func (f *File) adopt(spec *v1alpha1.WorkerGroupSpec) {
	f.generation++
	group := &v1alpha1.WorkerGroup{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: groupKind},
		ObjectMeta: metav1.ObjectMeta{Name: spec.PoolName, Generation: f.generation},
		Spec:       *spec.DeepCopy(),
	}
	f.config.Log.Info("config file adopted", "file", f.config.Path, "generation", f.generation, "workers", spec.Workers)
	f.config.Adopter.Adopt(group, false)
}

// readBounded reads a file of at most maxDocument bytes.
func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read from
	document, err := io.ReadAll(io.LimitReader(file, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(document) > maxDocument {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxDocument)
	}
	return document, nil
}
