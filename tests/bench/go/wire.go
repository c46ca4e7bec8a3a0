package main

// The batch of the contract and its bounds: what the types say, then what they cannot say. A pointer is a field whose
// absence must be told from its zero.

const (
	lastMillisecond = 10_413_791_999_999
	largestInteger  = 1<<53 - 1
	maxEvents       = 1000
	maxSignals      = 256
)

type batch struct {
	Device     string              `json:"device"`
	Batch      string              `json:"batch"`
	Seq        *uint64             `json:"seq"`
	SentAt     *uint64             `json:"sent_at"`
	SDK        string              `json:"sdk"`
	AppVersion string              `json:"app_version"`
	OS         string              `json:"os"`
	Hardware   string              `json:"hardware"`
	Locale     string              `json:"locale"`
	Have       map[string]have     `json:"have"`
	Ledger     *ledger             `json:"ledger"`
	Signals    map[string][]string `json:"signals"`
	Events     []event             `json:"events"`
}

type have struct {
	Catalogue *uint64 `json:"catalogue"`
	Use       any     `json:"use"`
	Previous  any     `json:"previous"`
}

type ledger struct {
	Produced *uint64           `json:"produced"`
	Dropped  map[string]uint64 `json:"dropped"`
}

type event struct {
	Type       string     `json:"type"`
	ID         *uint64    `json:"id"`
	T          *uint64    `json:"t"`
	Model      string     `json:"model"`
	Release    *uint32    `json:"release"`
	Source     string     `json:"source"`
	Score      *float64   `json:"score"`
	Decision   *bool      `json:"decision"`
	Explored   bool       `json:"explored"`
	Propensity *float64   `json:"propensity"`
	LatencyUs  uint32     `json:"latency_us"`
	Signals    []*float64 `json:"signals"`
	Outcome    *string    `json:"outcome"`
	Value      *float64   `json:"value"`
	State      string     `json:"state"`
	Detail     string     `json:"detail"`
	Bytes      *uint64    `json:"bytes"`
	Ms         uint32     `json:"ms"`
}

func (b *batch) good() bool {
	if !isUUID(b.Device) || !isUUID(b.Batch) || !counts(b.Seq) || !isTime(b.SentAt) || !isName(b.SDK) {
		return false
	}
	if !fits(b.AppVersion, 64) || !fits(b.OS, 64) || !fits(b.Hardware, 64) || !fits(b.Locale, 64) {
		return false
	}
	if b.Events == nil || len(b.Events) > maxEvents || len(b.Have) > 64 || len(b.Signals) > 64 {
		return false
	}
	for name, has := range b.Have {
		if !isName(name) || !counts(has.Catalogue) || !isUse(has.Use) || (has.Previous != nil && !isUse(has.Previous)) {
			return false
		}
	}
	for model, names := range b.Signals {
		if !isName(model) || len(names) > maxSignals {
			return false
		}
		for _, name := range names {
			if !isName(name) {
				return false
			}
		}
	}
	if b.Ledger != nil {
		if !counts(b.Ledger.Produced) || len(b.Ledger.Dropped) > 64 {
			return false
		}
		for name, count := range b.Ledger.Dropped {
			if !isName(name) || count > largestInteger {
				return false
			}
		}
	}
	for i := range b.Events {
		if !b.Events[i].good(b.Signals) {
			return false
		}
	}
	return true
}

func (e *event) good(signals map[string][]string) bool {
	if !isTime(e.T) || !isName(e.Model) {
		return false
	}
	switch e.Type {
	case "prediction":
		return counts(e.ID) && e.Release != nil && e.Decision != nil && isSource(e.Source) &&
			e.Score != nil && isProbability(*e.Score) && (e.Propensity == nil || isProbability(*e.Propensity)) &&
			len(e.Signals) <= maxSignals && len(e.Signals) == len(signals[e.Model]) &&
			(e.Outcome == nil || fits(*e.Outcome, 64))
	case "outcome":
		return counts(e.ID) && e.Outcome != nil && fits(*e.Outcome, 64)
	case "model":
		return e.Release != nil && isState(e.State) && fits(e.Detail, 256) && (e.Bytes == nil || *e.Bytes <= largestInteger)
	}
	return false
}

func counts(value *uint64) bool { return value != nil && *value <= largestInteger }

func isTime(value *uint64) bool { return value != nil && *value <= lastMillisecond }

func isProbability(value float64) bool { return value >= 0 && value <= 1 }

func isSource(word string) bool {
	return word == "ota" || word == "bundled" || word == "previous" || word == "none"
}

func isState(word string) bool {
	switch word {
	case "offered", "downloaded", "verified", "activated", "failed", "reverted", "quarantined":
		return true
	}
	return false
}

func isUse(value any) bool {
	switch use := value.(type) {
	case string:
		return use == "bundled" || use == "none"
	case float64:
		return use >= 0 && use <= 1<<32-1 && use == float64(uint32(use))
	}
	return false
}

func isName(text string) bool { return text != "" && fits(text, 64) }

func fits(text string, limit int) bool {
	if len(text) <= limit {
		return true
	}
	characters := 0
	for range text {
		characters++
	}
	return characters <= limit
}

func isUUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}
