package main

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What becomes of the sessions of a proxy that shuts down.

// Every session that had nothing unsent was cut: a request that waited for its
// answer at the backend, too.
func TestShutdownWaitsForAnAnswer(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.Addr().String(), patience)
	session := func() (client, server *net.TCPConn) { return p.client(), s.accept() }
	silent, _ := session()
	answered, server := session()
	write(t, answered, "question")
	read(t, server, "question")
	write(t, server, "answer")
	read(t, answered, "answer")
	asking, asked := session()
	write(t, asking, "question")
	read(t, asked, "question")
	ending, ended := session()
	write(t, ending, "question")
	require.NoError(t, ending.CloseWrite())
	read(t, ended, "question")
	atEnd(t, ended)
	write(t, ended, "first half")
	read(t, ending, "first half")

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- p.loop.Shutdown(ctx) }()
	atEnd(t, silent)
	atEnd(t, answered) // so much time has passed without a word
	assert.Empty(t, result)
	write(t, ended, "second half")
	require.NoError(t, ended.Close())
	read(t, ending, "second half")
	atEnd(t, ending)
	write(t, asked, "answer")
	read(t, asking, "answer")
	atEnd(t, asking)
	atEnd(t, asked)
	assert.NoError(t, <-result, "nobody was cut")
	assert.Empty(t, p.logged())
}

// An answer may come in pieces, and a question may follow an answer: a session is
// idle only after some time without a word.
func TestShutdownWaitsForTheRestOfAnAnswer(t *testing.T) {
	p, client, server := pair(t)
	p.to.quiet = time.Hour
	write(t, client, "question")
	read(t, server, "question")
	write(t, server, "first half")
	read(t, client, "first half")
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- p.loop.Shutdown(ctx) }()
	for refused := false; !refused; { // the shutdown has begun
		conn, err := net.DialTimeout("tcp", p.addr.String(), 50*time.Millisecond)
		if refused = err != nil; !refused {
			_ = conn.Close() // nothing was sent
		}
	}
	write(t, server, "second half")
	read(t, client, "second half")
	assert.Empty(t, result)
	cancel()
	assert.Equal(t, context.Canceled, <-result, "the deadline cuts it")
	atEnd(t, client)
}
