// Package load drives gRPC servers and measures what a caller sees: closed loops (so many calls outstanding) and open loops (calls that begin
// when a schedule says so, whatever became of the earlier ones). Messages are bytes that were encoded once, so that the client does as little
// as a gRPC client can. It knows nothing of what it drives.
package load
