-- Version 2. A file of another version is deleted and filled anew from ledger.db: change this file and its number.

-- What was added up of the requests that began within `step` seconds from `start` (seconds since 1970) on, by what they
-- have in common. uid is -1 where nobody knows it, a text is empty where the record has none.
CREATE TABLE sums (
  step INTEGER NOT NULL,
  start INTEGER NOT NULL,
  uid INTEGER NOT NULL,
  caller TEXT NOT NULL,
  model TEXT NOT NULL,
  operation TEXT NOT NULL,
  region TEXT NOT NULL,
  outcome TEXT NOT NULL,
  status INTEGER NOT NULL,
  requests INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cache_read_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  cost_nano_usd INTEGER NOT NULL,
  unpriced INTEGER NOT NULL,
  request_bytes INTEGER NOT NULL,
  response_bytes INTEGER NOT NULL,
  latency BLOB NOT NULL,
  first_byte BLOB NOT NULL,
  PRIMARY KEY (step, start, uid, caller, model, operation, region, outcome, status)
) WITHOUT ROWID;

-- The last record that is counted, by its place in the chain and by its id in ledger.db; first_id is the one that
-- counting began behind.
CREATE TABLE marker (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  chain_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  id INTEGER NOT NULL,
  first_id INTEGER NOT NULL
);

-- By what clock the sums were made, in seconds since 1970. swept: the minute in which what is too old was last deleted. ahead:
-- the latest date of a record that was passed over because it lay in the future. 0 where there is none.
CREATE TABLE clock (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  swept INTEGER NOT NULL,
  ahead INTEGER NOT NULL
);
INSERT INTO clock VALUES (1, 0, 0);
