-- Version 1. Changes are added as new steps in mod.rs, never here.

-- One per ledger and host; anchor = the last record that was pruned, head = the last that was stored.
CREATE TABLE chains (
  id INTEGER PRIMARY KEY,
  chain_id TEXT NOT NULL UNIQUE,
  host_id TEXT NOT NULL,
  anchor_seq INTEGER NOT NULL,
  anchor_hash TEXT NOT NULL,
  head_seq INTEGER NOT NULL,
  head_hash TEXT NOT NULL
);

-- Ended requests in the order in which they ended. item is canonical JSON without chainHash; the columns repeat parts
-- of it for questions.
CREATE TABLE records (
  id INTEGER PRIMARY KEY,
  chain INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  started_ms INTEGER NOT NULL,
  success INTEGER NOT NULL,
  caller TEXT,
  caller_uid INTEGER,
  model_id TEXT NOT NULL,
  hash TEXT NOT NULL,
  item TEXT NOT NULL
);
CREATE INDEX records_by_time ON records (started_ms, success, caller_uid, caller, model_id);

-- Records that DynamoDB will never take, and what it said.
CREATE TABLE set_aside (id INTEGER PRIMARY KEY, reason TEXT NOT NULL);

-- segment, offset: up to where the journal is stored here. shipped_id: up to where DynamoDB confirmed every record, those
-- set aside apart. *_bytes: lengths of items.
CREATE TABLE state (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  segment INTEGER NOT NULL,
  offset INTEGER NOT NULL,
  last_id INTEGER NOT NULL,
  shipped_id INTEGER NOT NULL,
  shipped_total INTEGER NOT NULL,
  unshipped_bytes INTEGER NOT NULL,
  kept_bytes INTEGER NOT NULL
);
INSERT INTO state VALUES (1, 0, 0, 0, 0, 0, 0, 0);
