package front

import (
	"fmt"
	"sort"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	rpcv1alpha1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

// describe serves reflection, in both versions: what this router serves and what the adapter does.
func (s *Server) describe() {
	files := &catalogue{pool: s.pool}
	options := reflection.ServerOptions{Services: &services{s.pool, s.grpc}, DescriptorResolver: files}
	reflectionv1.RegisterServerReflectionServer(s.grpc, reflection.NewServerV1(options))
	reflectionv1alpha.RegisterServerReflectionServer(s.grpc, reflection.NewServer(options))
}

// services lists the names of all services.
type services struct {
	pool Pool
	grpc *grpc.Server
}

// GetServiceInfo implements reflection.ServiceInfoProvider.
func (s *services) GetServiceInfo() map[string]grpc.ServiceInfo {
	all := s.grpc.GetServiceInfo()
	if declared := s.pool.Declared(); declared != nil {
		for _, m := range declared.Methods {
			name := strings.TrimPrefix(m.Path, "/")
			name = name[:strings.LastIndexByte(name, '/')]
			if _, ours := all[name]; !ours {
				all[name] = grpc.ServiceInfo{}
			}
		}
	}
	return all
}

// catalogue finds descriptors: the adapter's, and those that this program was built with.
type catalogue struct {
	pool Pool

	mu   sync.Mutex
	of   *Declared
	own  *protoregistry.Files // of the adapter; nil where they do not fit together
	none protoregistry.Files
}

// adapter makes the descriptors of what is declared now, once.
func (c *catalogue) adapter() *protoregistry.Files {
	declared := c.pool.Declared()
	c.mu.Lock()
	defer c.mu.Unlock()
	if declared != c.of {
		c.of, c.own = declared, link(declared.Files)
	}
	if c.own == nil {
		return &c.none
	}
	return c.own
}

// link makes descriptors of serialized ones; imports that did not come are left open.
func link(files [][]byte) *protoregistry.Files {
	set, seen := &descriptorpb.FileDescriptorSet{}, map[string]bool{}
	for _, data := range files {
		var f descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(data, &f); err != nil {
			return nil
		}
		if !seen[f.GetName()] {
			seen[f.GetName()] = true
			set.File = append(set.File, &f)
		}
	}
	linked, err := protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(set)
	if err != nil {
		return nil
	}
	return linked
}

// FindFileByPath implements protodesc.Resolver.
func (c *catalogue) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if d, err := c.adapter().FindFileByPath(path); err == nil {
		return d, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

// FindDescriptorByName implements protodesc.Resolver. An adapter does not describe this router's own services.
func (c *catalogue) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if !ours(string(name)) {
		if d, err := c.adapter().FindDescriptorByName(name); err == nil {
			return d, nil
		}
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}

func ours(name string) bool {
	return strings.HasPrefix(name, "snakepit.v1alpha1.") || strings.HasPrefix(name, "grpc.health.") || strings.HasPrefix(name, "grpc.reflection.")
}

// unknownMethod names what the caller may have meant.
func (s *Server) unknownMethod(path string, declared *Declared) *Failure {
	names := make([]string, 0, 16)
	for _, m := range rpcv1alpha1.Pool_ServiceDesc.Methods {
		names = append(names, "/"+rpcv1alpha1.Pool_ServiceDesc.ServiceName+"/"+m.MethodName)
	}
	for _, m := range declared.Methods {
		names = append(names, m.Path)
	}
	near := nearest(path, names)
	text := fmt.Sprintf("no method %s here", clip(path, 80))
	if len(near) > 0 {
		text += "; nearest: " + near[0]
	} else {
		text += fmt.Sprintf("; the adapter serves %d, reflection lists them", len(declared.Methods))
	}
	return &Failure{Reason: ReasonMethodUnknown, Message: text, Info: map[string]string{"nearest": strings.Join(near, ",")}}
}

func unknownTool(name string, declared *Declared) *Failure {
	names := make([]string, len(declared.Tools))
	for i, t := range declared.Tools {
		names[i] = t.Name
	}
	near := nearest(name, names)
	text := fmt.Sprintf("the adapter has no tool %q", clip(name, 60))
	if len(near) > 0 {
		text += "; nearest: " + strings.Join(near, ", ")
	} else {
		text += "; ListTools names what it has"
	}
	return &Failure{Reason: ReasonToolUnknown, Message: text, Info: map[string]string{"nearest": strings.Join(near, ",")}}
}

// nearest returns up to three names within a third of the asked name's length, in edits, nearest first.
func nearest(name string, names []string) []string {
	type match struct {
		name  string
		edits int
	}
	if len(name) > 128 {
		return nil
	}
	var found []match
	for _, candidate := range names[:min(len(names), 256)] { // bounded work for whoever asks for what is not there
		limit := max(1, (len(candidate)+1)/3)
		if off := len(candidate) - len(name); off > limit || -off > limit || len(candidate) > 128 {
			continue
		}
		if edits := distance(name, candidate); edits <= limit {
			found = append(found, match{candidate, edits})
		}
	}
	sort.Slice(found, func(i, j int) bool {
		if found[i].edits != found[j].edits {
			return found[i].edits < found[j].edits
		}
		return found[i].name < found[j].name
	})
	var result []string
	for _, m := range found[:min(len(found), 3)] {
		result = append(result, m.name)
	}
	return result
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			before, row[j] = row[j], min(row[j]+1, row[j-1]+1, before+cost)
		}
	}
	return row[len(b)]
}
