// A client with net/http: go run client.go <URL>
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

type Session struct {
	url, id, cursor string
	onEvent         func(name string, data json.RawMessage) // also `lost` (the session was lost, and there is a new one) and `refused` (the server has refused a message)
	retry, silence  time.Duration
	failures, key   int
	outbox          []string
	unsure          int // the number of messages at the start of the outbox that were sent, but have no response
	batch           int
	connected       bool
	opened          time.Time
	abort           context.CancelFunc // ends the stream
	lock            sync.Mutex
	changed         *sync.Cond
}

type result struct {
	Status   int
	Body     struct{ Code string }
	Replayed bool
}

func Connect(url string) *Session {
	s := &Session{url: url, retry: time.Second, batch: 100}
	s.changed = sync.NewCond(&s.lock)
	go s.deliver()
	return s
}

func (s *Session) Send(event string, data any) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.key++
	line, _ := json.Marshal(map[string]any{"event": event, "data": data, "id": strconv.Itoa(s.key)})
	s.outbox = append(s.outbox, string(line))
	s.changed.Signal()
}

func (s *Session) Close() {
	s.lock.Lock()
	id := s.id
	s.lock.Unlock()
	if id == "" {
		return // there is no session yet
	}
	if response, err := s.request(context.Background(), "DELETE", "/downward", nil, "X-Session-ID", id); err == nil {
		response.Body.Close()
	}
}

func (s *Session) request(ctx context.Context, method, path string, body io.Reader, headers ...string) (*http.Response, error) {
	request, _ := http.NewRequestWithContext(ctx, method, s.url+path, body)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	return http.DefaultClient.Do(request)
}

func isRefusal(status int) bool {
	return status == 204 || status >= 400 && status < 500 && status != 408 && status != 421 && status != 425 && status != 429
}

func (s *Session) wait(failures int, response *http.Response) {
	s.lock.Lock()
	retry := s.retry
	s.lock.Unlock()
	limit := math.Min(10e9, float64(retry)*math.Pow(2, float64(failures)))
	delay := retry + time.Duration(rand.Float64()*limit)
	if response != nil {
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		after := time.Duration(seconds) * time.Second
		if date, err := http.ParseTime(response.Header.Get("Retry-After")); err == nil {
			now, err := http.ParseTime(response.Header.Get("Date"))
			if err != nil {
				now = time.Now()
			}
			after = date.Sub(now)
		}
		if after > delay {
			delay = after
		}
	}
	time.Sleep(delay)
}

// Run receives events until the session is closed. It returns an error if the server refuses the stream, or if another stream replaces it.
func (s *Session) Run() error {
	for ; ; s.failures++ {
		ctx, abort := context.WithCancel(context.Background())
		s.lock.Lock()
		s.opened, s.abort = time.Now(), abort
		s.lock.Unlock()
		s.silence = 37500 * time.Millisecond // until the welcome
		timer := time.AfterFunc(s.silence, abort)
		response, err := s.request(ctx, "GET", "/downward", nil, "Accept", "text/event-stream", "Last-Event-ID", s.cursor)
		if err == nil && isRefusal(response.StatusCode) {
			return fmt.Errorf("status %d", response.StatusCode)
		}
		if err == nil && response.StatusCode == 200 && strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
			if name := s.read(response.Body, timer); name == "close" {
				return nil
			} else if name == "replaced" {
				return errors.New(name)
			}
		}
		abort()
		if err == nil {
			response.Body.Close()
		}
		s.lock.Lock()
		s.connected = false
		s.lock.Unlock()
		s.wait(s.failures, response)
	}
}

// read returns `close` or `replaced`, after which the client must not reconnect; otherwise an empty string.
func (s *Session) read(body io.Reader, timer *time.Timer) string {
	name, data, id := "message", "", ""
	var text []byte
	chunk := make([]byte, 4096)
	for {
		n, err := body.Read(chunk)
		if err != nil && n == 0 {
			return "" // the connection is lost, or was silent for too long
		}
		timer.Reset(s.silence)
		text = append(text, chunk[:n]...)
		// A CR at the end can be the first half of CRLF.
		for end := bytes.IndexAny(text, "\r\n"); end >= 0 && (text[end] == '\n' || end+1 < len(text)); end = bytes.IndexAny(text, "\r\n") {
			field, value, _ := strings.Cut(string(text[:end]), ":")
			if text[end] == '\r' && text[end+1] == '\n' {
				end++
			}
			text = text[end+1:]
			value = strings.TrimPrefix(value, " ")
			switch {
			case field == "retry":
				ms, _ := strconv.Atoi(value)
				s.lock.Lock()
				s.retry = time.Duration(ms) * time.Millisecond
				s.lock.Unlock()
			case field == "event":
				name = value
			case field == "data":
				data += value
			case field == "id":
				id = value
			case field == "" && value == "":
				if data != "" && name == "welcome" {
					s.welcome([]byte(data))
					timer.Reset(s.silence)
				} else if name == "close" || name == "replaced" {
					return name
				} else if data != "" {
					s.onEvent(name, json.RawMessage(data))
				}
				if id != "" {
					s.cursor = id
				}
				name, data, id = "message", "", ""
			}
		}
	}
}

func (s *Session) welcome(text []byte) {
	var data struct {
		SessionID         string
		HeartbeatInterval float64
	}
	json.Unmarshal(text, &data)
	s.silence = math.MaxInt64
	if data.HeartbeatInterval > 0 {
		s.silence = time.Duration(data.HeartbeatInterval * 2.5e6)
	}
	s.lock.Lock()
	isLost := s.id != "" && s.id != data.SessionID
	if isLost { // a repeat in the new session could be handled twice
		s.outbox, s.unsure = s.outbox[s.unsure:], 0
	}
	s.id, s.connected, s.failures = data.SessionID, true, 0
	s.lock.Unlock()
	s.changed.Signal()
	if isLost {
		s.onEvent("lost", nil)
	}
}

func (s *Session) deliver() {
	for failures := 0; ; {
		s.lock.Lock()
		for !s.connected || len(s.outbox) == 0 {
			s.changed.Wait()
		}
		id, before := s.id, s.unsure
		lines := s.outbox
		if len(lines) > s.batch {
			lines = lines[:s.batch]
		}
		if len(lines) > s.unsure {
			s.unsure = len(lines)
		}
		s.lock.Unlock()

		response, results, wasRefused := s.post(id, lines)
		done, isUnknown := 0, false
		for _, result := range results {
			isUnknown = isUnknown || result.Body.Code == "FST_SSE_SESSION_UNKNOWN"
			if isUnknown || !result.Replayed && (result.Status == 429 || result.Status == 503) {
				break
			}
			done++
		}
		s.lock.Lock()
		if id != s.id { // the session is lost
			s.lock.Unlock()
			continue
		}
		if len(results) > 1 && (response.StatusCode == 400 || response.StatusCode == 413) {
			s.batch, s.unsure = len(lines)/2, before
			s.lock.Unlock()
			continue
		}
		if wasRefused {
			s.unsure = before // the others were not handled
		}
		if s.unsure -= done; s.unsure < 0 {
			s.unsure = 0
		}
		s.outbox, s.connected = s.outbox[done:], s.connected && !isUnknown
		isStale := response != nil && response.Header.Get("X-Session-Connected") == "false" && time.Since(s.opened) > s.retry
		abort := s.abort
		s.lock.Unlock()
		for _, result := range results[:done] {
			if result.Status >= 400 {
				s.onEvent("refused", json.RawMessage(fmt.Sprintf(`{"status":%d}`, result.Status)))
			}
		}
		if isUnknown || isStale {
			abort()
		}
		if done > 0 {
			failures, s.batch = 0, 100
		} else {
			failures++
			s.wait(failures, response)
		}
	}
}

// post returns no response if it is incomplete, and no results if all messages have to be repeated.
// post also returns whether the messages without a result were certainly not handled.
func (s *Session) post(id string, lines []string) (*http.Response, []result, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	response, err := s.request(ctx, "POST", "/upward", strings.NewReader(strings.Join(lines, "\n")), "X-Session-ID", id, "Content-Type", "application/x-ndjson")
	if err != nil {
		return nil, nil, false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, nil, false
	}
	var results []result
	var failure struct{ Code string }
	if response.StatusCode == 200 {
		json.Unmarshal(text, &results)
		if len(results) != len(lines) {
			results = nil // it is not the response of this server
		}
	} else if isRefusal(response.StatusCode) {
		single := result{Status: response.StatusCode}
		json.Unmarshal(text, &single.Body)
		for range lines {
			results = append(results, single)
		}
	} else {
		json.Unmarshal(text, &failure)
	}
	// A 503 without a code of this server can come from a proxy.
	wasRefused := results != nil || response.StatusCode == 429 || response.StatusCode == 503 && strings.HasPrefix(failure.Code, "FST_SSE_")
	return response, results, wasRefused
}

func main() {
	session := Connect(os.Args[1])
	session.onEvent = func(name string, data json.RawMessage) {
		switch name {
		case "echo", "lost", "refused":
			session.Send(name, data)
		case "gap":
			session.Send("missed", data)
		case "leave":
			session.Close()
		}
	}
	if err := session.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "The stream has ended:", err)
		os.Exit(1)
	}
}
