// Package front serves callers over gRPC: the generic API, health and reflection.
//
// Every call is a raw stream handler: its metadata is checked and it is admitted before its message is read, so that a waiting call costs one
// stream window. The front chooses no worker and knows no session; it asks Pool, and says what callers are told. It never decodes arguments or
// answers: of a request it reads the tool's name, the rest passes through as bytes.
package front
