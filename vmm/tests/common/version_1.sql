-- A snapshot's content is the file of its name in snapshots/.
CREATE TABLE snapshots (
    id TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    created INTEGER NOT NULL,
    description TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The files in segments/ that snapshots need.
CREATE TABLE segments (
    id INTEGER PRIMARY KEY
) STRICT;

-- Where the next snapshot finds content that is stored already.
CREATE TABLE chunks (
    digest BLOB PRIMARY KEY,
    segment INTEGER NOT NULL REFERENCES segments (id),
    byte_offset INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The document is the image as EC2 would show it, in JSON.
CREATE TABLE images (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    UNIQUE (name, owner)
) STRICT, WITHOUT ROWID;

CREATE TABLE image_snapshots (
    image TEXT NOT NULL REFERENCES images (id),
    snapshot TEXT NOT NULL REFERENCES snapshots (id),
    PRIMARY KEY (image, snapshot)
) STRICT, WITHOUT ROWID;

-- Kernels and RAM disks; the content is the file of its id in kernels/.
CREATE TABLE kernels (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT,
    architecture TEXT,
    digest BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (kind, digest),
    UNIQUE (kind, name)
) STRICT, WITHOUT ROWID;

-- The image may be gone while its instances live on.
CREATE TABLE instances (
    id TEXT PRIMARY KEY,
    name TEXT UNIQUE,
    image TEXT NOT NULL,
    image_name TEXT NOT NULL,
    state TEXT NOT NULL,
    state_reason TEXT,
    exit_status INTEGER,
    launched INTEGER NOT NULL,
    ended INTEGER,
    cpus INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    pid INTEGER,
    remove_at_end INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A volume's content is the files of its id in volumes/. Ephemeral disks are volumes with a
-- number. Without an instance: one that has survived it.
CREATE TABLE volumes (
    id TEXT PRIMARY KEY,
    instance TEXT REFERENCES instances (id),
    position INTEGER NOT NULL,
    device_name TEXT NOT NULL,
    ephemeral INTEGER,
    snapshot TEXT REFERENCES snapshots (id),
    size_bytes INTEGER NOT NULL,
    volume_type TEXT,
    delete_on_termination INTEGER NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX volumes_by_instance ON volumes (instance);

-- The rows of a store of this day, of which version 1 had these columns.
INSERT INTO snapshots SELECT id, size_bytes, stored_bytes, created, description FROM present.snapshots;
INSERT INTO segments SELECT id FROM present.segments;
INSERT INTO chunks SELECT digest, segment, byte_offset FROM present.chunks;
INSERT INTO images SELECT id, owner, name, document FROM present.images;
INSERT INTO image_snapshots SELECT image, snapshot FROM present.image_snapshots;
INSERT INTO kernels SELECT id, kind, name, architecture, digest, size_bytes, created FROM present.kernels;
INSERT INTO instances SELECT id, name, image, image_name, state, state_reason, exit_status, launched, ended, cpus,
    memory_bytes, pid, remove_at_end FROM present.instances;
INSERT INTO volumes SELECT id, instance, position, device_name, ephemeral, snapshot, size_bytes, volume_type,
    delete_on_termination, created FROM present.volumes;
PRAGMA user_version = 1;
