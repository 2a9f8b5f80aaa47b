package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// qmp is the client of QEMU's machine protocol: one command at a time, events as
// they come.
type qmp struct {
	conn    io.ReadWriteCloser
	onEvent func(name string, data map[string]any)

	mu      sync.Mutex // held for a whole command
	id      int        // of the last command
	replies chan qmpMessage
	gone    chan struct{} // closed when the connection has ended
}

type qmpMessage struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	ID       int             `json:"id"`
	Event    string          `json:"event"`
	Data     map[string]any  `json:"data"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

var errQMPGone = errors.New("QEMU closed the connection")

// newQMP reads conn until it ends; onEvent is called from the reader. The first
// command must be qmp_capabilities.
func newQMP(conn io.ReadWriteCloser, onEvent func(string, map[string]any)) *qmp {
	q := &qmp{conn: conn, onEvent: onEvent, replies: make(chan qmpMessage, 16), gone: make(chan struct{})}
	go q.read()
	return q
}

func (q *qmp) read() {
	defer close(q.gone)
	dec := json.NewDecoder(q.conn)
	for {
		var m qmpMessage
		if err := dec.Decode(&m); err != nil {
			return
		}
		switch {
		case m.Event != "":
			q.onEvent(m.Event, m.Data)
		case m.Return != nil || m.Error != nil:
			q.replies <- m
		}
	}
}

// do runs one command and returns its result.
func (q *qmp) do(ctx context.Context, command string, args any) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.id++
	req := map[string]any{"execute": command, "id": q.id}
	if args != nil {
		req["arguments"] = args
	}
	b, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("qmp %s: %w", command, err)
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("qmp %s: %w", command, err)
	}
	for {
		select {
		case m := <-q.replies:
			switch {
			case m.ID != q.id: // of a command nobody waits for any more
				continue
			case m.Error != nil:
				return nil, fmt.Errorf("qmp %s: %s: %s", command, m.Error.Class, m.Error.Desc)
			}
			return m.Return, nil
		case <-q.gone:
			return nil, fmt.Errorf("qmp %s: %w", command, errQMPGone)
		case <-ctx.Done():
			return nil, fmt.Errorf("qmp %s: %w", command, ctx.Err())
		}
	}
}
