-- Version 2: one record for each place in a chain.

-- Records whose place another had already. They are in no answer and no table.
CREATE TABLE conflicts (
  id INTEGER PRIMARY KEY,
  chain INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  hash TEXT NOT NULL,
  item TEXT NOT NULL,
  UNIQUE (chain, seq, hash)
);
INSERT OR IGNORE INTO conflicts (chain, seq, hash, item)
  SELECT chain, seq, hash, item FROM records WHERE id NOT IN (SELECT min(id) FROM records GROUP BY chain, seq);
DELETE FROM records WHERE id NOT IN (SELECT min(id) FROM records GROUP BY chain, seq);
CREATE UNIQUE INDEX records_by_chain ON records (chain, seq);
