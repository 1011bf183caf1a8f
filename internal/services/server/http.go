package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
)

// URL is the base of a server that speaks HTTP, without a slash at its end.
func (s *Server) URL() string {
	if s.secure() {
		return "https://" + s.Addr("http")
	}
	return "http://" + s.Addr("http")
}

// answers tells whether the server answers a GET with 200.
func (s *Server) answers(ctx context.Context, path string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+path, nil)
	if err != nil {
		return false
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if s.secure() {
		ca, err := os.ReadFile(s.CA())
		if err != nil {
			return false
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}
