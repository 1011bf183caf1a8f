package faultproxy

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"strings"
)

// Operation names what a request asks of AWS: "SendMessageBatch" of SQS,
// "UploadPart" of S3 in path style; "" for what it doesn't know.
func Operation(r *http.Request) string {
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		return target[strings.LastIndexByte(target, '.')+1:]
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	on := "Bucket"
	switch {
	case bucket == "" && r.Method == http.MethodGet:
		return "ListBuckets"
	case key != "" && (query.Has("uploadId") || query.Has("uploads")):
		return multipart(r.Method, query.Has("uploads"), query.Has("partNumber"))
	case key != "":
		on = "Object"
	}
	switch r.Method {
	case http.MethodGet:
		if on == "Bucket" && query.Get("list-type") == "2" {
			return "ListObjectsV2"
		}
		return "Get" + on
	case http.MethodHead:
		return "Head" + on
	case http.MethodDelete:
		return "Delete" + on
	case http.MethodPut:
		if on == "Bucket" {
			return "CreateBucket"
		}
		if r.Header.Get("X-Amz-Copy-Source") != "" {
			return "CopyObject"
		}
		return "PutObject"
	case http.MethodPost:
		if query.Has("delete") {
			return "DeleteObjects"
		}
	}
	return ""
}

func multipart(method string, all, part bool) string {
	switch {
	case method == http.MethodPost && all:
		return "CreateMultipartUpload"
	case method == http.MethodPost:
		return "CompleteMultipartUpload"
	case method == http.MethodPut && part:
		return "UploadPart"
	case method == http.MethodDelete:
		return "AbortMultipartUpload"
	case method == http.MethodGet:
		return "ListParts"
	}
	return ""
}

// Operations matches requests of these operations.
func Operations(names ...string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		operation := Operation(r)
		for _, name := range names {
			if name == operation {
				return true
			}
		}
		return false
	}
}

// S3Error answers as S3 does when it refuses: 503 SlowDown, 500 InternalError,
// 409 ConditionalRequestConflict, 429 TooManyRequests of some stores.
func S3Error(status int, code string) func(*http.Request) *Answer {
	return func(r *http.Request) *Answer {
		var body bytes.Buffer
		body.WriteString(xml.Header)
		_ = xml.NewEncoder(&body).Encode(struct {
			XMLName                            xml.Name `xml:"Error"`
			Code, Message, Resource, RequestId string
		}{Code: code, Message: "injected " + code, Resource: r.URL.Path, RequestId: "faultproxy"})
		if r.Method == http.MethodHead { // has no body, so no code either
			body.Reset()
		}
		return &Answer{status, http.Header{"Content-Type": {"application/xml"}, "X-Amz-Request-Id": {"faultproxy"}}, body.Bytes()}
	}
}

// SQSError answers as SQS does when it refuses: 400 RequestThrottled, 403
// ThrottlingException, 500 InternalFailure, 503 ServiceUnavailable.
func SQSError(status int, code string) func(*http.Request) *Answer {
	return func(*http.Request) *Answer {
		body, _ := json.Marshal(map[string]string{"__type": "com.amazonaws.sqs#" + code, "message": "injected " + code})
		who := "Sender"
		if status >= 500 {
			who = "Receiver"
		}
		return &Answer{status, http.Header{
			"Content-Type": {"application/x-amz-json-1.0"}, "X-Amzn-Query-Error": {code + ";" + who}, "X-Amzn-Requestid": {"faultproxy"},
		}, body}
	}
}
