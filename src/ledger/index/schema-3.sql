-- Version 3: what was kept aside for a conflict has a date, by which it is deleted.
ALTER TABLE conflicts ADD COLUMN started_ms INTEGER NOT NULL DEFAULT 0;
UPDATE conflicts SET started_ms = coalesce(unixepoch(json_extract(item, '$.timestamp')), 0) * 1000 WHERE json_valid(item);
CREATE INDEX conflicts_by_place ON conflicts (chain, seq, started_ms);
