// The gateway's job in Go: look up the key, inflate, decode strictly, publish to Kafka with acks=all, answer.
// DECODER=std takes encoding/json, DECODER=goccy its faster replacement.
package main

import (
	"bytes"
	"crypto/sha256"
	stdjson "encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-json"
	"github.com/klauspost/compress/gzip"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	bodyMax     = 1 << 20
	inflatedMax = 8 << 20
)

type gateway struct {
	apps      map[[32]byte]string
	client    *kgo.Client
	unmarshal func([]byte, any) error
	readers   sync.Pool
	rooms     sync.Pool
}

func main() {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(os.Getenv("BOOTSTRAP"), ",")...),
		kgo.DefaultProduceTopic(os.Getenv("TOPIC")),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(2*time.Millisecond),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	if err != nil {
		log.Fatal(err)
	}
	g := &gateway{
		apps:      map[[32]byte]string{sha256.Sum256([]byte(os.Getenv("APP_KEY"))): "bench"},
		client:    client,
		unmarshal: stdjson.Unmarshal,
	}
	if os.Getenv("DECODER") == "goccy" {
		g.unmarshal = json.Unmarshal
	}
	g.readers.New = func() any { return new(gzip.Reader) }
	g.rooms.New = func() any { return new(bytes.Buffer) }
	http.HandleFunc("POST /v1/batches", g.ingest)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}

func (g *gateway) ingest(w http.ResponseWriter, r *http.Request) {
	app, known := g.apps[sha256.Sum256([]byte(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")))]
	if !known {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, err := read(r)
	if err != nil {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	var taken batch
	if !g.decode(body, &taken) || !taken.good() {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	now := strconv.FormatInt(time.Now().UnixMilli(), 10)
	record := &kgo.Record{Key: []byte(taken.Device), Value: body, Headers: []kgo.RecordHeader{
		{Key: "app", Value: []byte(app)},
		{Key: "content-encoding", Value: []byte("gzip")},
		{Key: "received_at", Value: []byte(now)},
		{Key: "gateway", Value: []byte("bench")},
		{Key: "batch", Value: []byte(taken.Batch)},
		{Key: "events", Value: []byte(strconv.Itoa(len(taken.Events)))},
	}}
	if err := g.client.ProduceSync(r.Context(), record).FirstErr(); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"batch":"%s","accepted":%d,"server_time":%s,"flush":{"events":50,"seconds":300,"lease_seconds":21600}}`,
		taken.Batch, len(taken.Events), now)
}

func read(r *http.Request) ([]byte, error) {
	if r.ContentLength > bodyMax {
		return nil, io.ErrShortBuffer
	}
	if r.ContentLength >= 0 {
		body := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	return io.ReadAll(http.MaxBytesReader(nil, r.Body, bodyMax))
}

func (g *gateway) decode(body []byte, into *batch) bool {
	reader := g.readers.Get().(*gzip.Reader)
	defer g.readers.Put(reader)
	room := g.rooms.Get().(*bytes.Buffer)
	defer g.rooms.Put(room)
	source := bytes.NewReader(body)
	if reader.Reset(source) != nil {
		return false
	}
	reader.Multistream(false)
	room.Reset()
	if _, err := io.Copy(room, io.LimitReader(reader, inflatedMax+1)); err != nil || room.Len() > inflatedMax {
		return false
	}
	return source.Len() == 0 && g.unmarshal(room.Bytes(), into) == nil
}
