-- The tables of floor.py: as many rows, keys and indexes as an import needs, and no more.
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
CREATE TABLE repositories (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
  revision INTEGER NOT NULL);
CREATE TABLE intents (key TEXT PRIMARY KEY, owner TEXT NOT NULL, expires_at INTEGER NOT NULL);
CREATE TABLE ingests (uuid TEXT PRIMARY KEY, committed_at INTEGER NOT NULL);
CREATE TABLE blobs (id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE,
  size INTEGER NOT NULL, key TEXT NOT NULL UNIQUE, state TEXT NOT NULL);
CREATE TABLE repository_blobs (repository_id INTEGER NOT NULL REFERENCES repositories,
  blob_id INTEGER NOT NULL REFERENCES blobs, PRIMARY KEY (repository_id, blob_id));
CREATE INDEX repository_blobs_blob ON repository_blobs (blob_id);
CREATE TABLE manifests (id INTEGER PRIMARY KEY AUTOINCREMENT,
  repository_id INTEGER NOT NULL REFERENCES repositories,
  blob_id INTEGER NOT NULL REFERENCES blobs, digest BLOB NOT NULL, media_type TEXT NOT NULL,
  bytes BLOB NOT NULL, os TEXT, architecture TEXT, created TEXT, UNIQUE (repository_id, digest));
CREATE INDEX manifests_blob ON manifests (blob_id);
CREATE TABLE manifest_blobs (manifest_id INTEGER NOT NULL REFERENCES manifests,
  position INTEGER NOT NULL, blob_id INTEGER NOT NULL REFERENCES blobs, role TEXT NOT NULL,
  chain BLOB NOT NULL, PRIMARY KEY (manifest_id, position));
CREATE INDEX manifest_blobs_blob ON manifest_blobs (blob_id);
CREATE TABLE index_manifests (index_id INTEGER NOT NULL REFERENCES manifests,
  position INTEGER NOT NULL, child_digest BLOB NOT NULL, child_id INTEGER REFERENCES manifests,
  platform TEXT, PRIMARY KEY (index_id, position));
CREATE INDEX index_manifests_child ON index_manifests (child_id);
CREATE TABLE tags (id INTEGER PRIMARY KEY AUTOINCREMENT,
  repository_id INTEGER NOT NULL REFERENCES repositories, name TEXT NOT NULL, digest BLOB NOT NULL,
  manifest_id INTEGER REFERENCES manifests, started_at INTEGER NOT NULL, ended_at INTEGER);
CREATE UNIQUE INDEX tags_live ON tags (repository_id, name) WHERE ended_at IS NULL;
CREATE INDEX tags_manifest ON tags (manifest_id);
CREATE TABLE labels (manifest_id INTEGER NOT NULL REFERENCES manifests, source TEXT NOT NULL,
  name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (manifest_id, source, name));
CREATE INDEX labels_name ON labels (name, value);
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT,
  repository_id INTEGER NOT NULL REFERENCES repositories, kind TEXT NOT NULL,
  digest BLOB NOT NULL, tag TEXT, at INTEGER NOT NULL);
CREATE TABLE layout_outbox (repository_id INTEGER NOT NULL REFERENCES repositories,
  revision INTEGER NOT NULL, PRIMARY KEY (repository_id, revision));
INSERT INTO repositories VALUES (1, 'bench', 0);
