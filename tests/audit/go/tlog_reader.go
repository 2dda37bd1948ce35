// A verifier of tlog-tiles logs with Go's own checksum-database packages: DIR-OR-URL VKEY-FILE.
// It checks the signature, every entry against the tree by way of its tiles, and one inclusion proof.
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func path(n int64) string {
	s := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		s = fmt.Sprintf("x%03d/%s", n%1000, s)
	}
	return s
}

// read has a file of the log, from a folder or over HTTP with the API key of the environment.
func read(dir, p string) ([]byte, error) {
	if !strings.HasPrefix(dir, "http://") {
		return os.ReadFile(filepath.Join(dir, p))
	}
	req, err := http.NewRequest("GET", dir+"/"+p, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-API-Key", os.Getenv("API_KEY"))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		return nil, fmt.Errorf("%s: %s", p, res.Status)
	}
	return io.ReadAll(res.Body)
}

type reader struct{ dir string }

func (r reader) Height() int { return 8 }
func (r reader) SaveTiles(tiles []tlog.Tile, data [][]byte) {}
func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, t := range tiles {
		p := fmt.Sprintf("tile/%d/%s", t.L, path(t.N))
		if t.W < 256 {
			p += fmt.Sprintf(".p/%d", t.W)
		}
		d, err := read(r.dir, p)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	dir := os.Args[1]
	vk, err := os.ReadFile(os.Args[2])
	must(err)
	v, err := note.NewVerifier(strings.TrimSpace(string(vk)))
	must(err)
	msg, err := read(dir, "checkpoint")
	must(err)
	n, err := note.Open(msg, note.VerifierList(v))
	must(err)
	lines := strings.Split(n.Text, "\n")
	var size int64
	fmt.Sscan(lines[1], &size)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	tree := tlog.Tree{N: size, Hash: root}
	hr := tlog.TileHashReader(tree, reader{dir})
	count := int64(0)
	for b := int64(0); b*256 < size; b++ {
		w := size - b*256
		p := "tile/entries/" + path(b)
		if w < 256 {
			p += fmt.Sprintf(".p/%d", w)
		}
		d, err := read(dir, p)
		must(err)
		var idx []int64
		var hs []tlog.Hash
		for len(d) > 0 {
			l := int(binary.BigEndian.Uint16(d))
			hs = append(hs, tlog.RecordHash(d[2:2+l]))
			idx = append(idx, tlog.StoredHashIndex(0, count))
			count++
			d = d[2+l:]
		}
		got, err := hr.ReadHashes(idx)
		must(err)
		for i := range got {
			if got[i] != hs[i] {
				panic(fmt.Sprintf("entry %d differs", b*256+int64(i)))
			}
		}
	}
	if size > 1 {
		p, err := tlog.ProveRecord(size, size/2, hr)
		must(err)
		hs, err := hr.ReadHashes([]int64{tlog.StoredHashIndex(0, size/2)})
		must(err)
		must(tlog.CheckRecord(p, size, root, size/2, hs[0]))
	}
	fmt.Println(n.Sigs[0].Name, count)
}
