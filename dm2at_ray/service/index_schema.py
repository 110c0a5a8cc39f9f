"""Tables of the index of a run: what its directory says, in a form that answers questions at once."""

from __future__ import annotations

VERSION = 1
"""Of the tables: an index of another version is thrown away."""

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE rounds (
    round INTEGER PRIMARY KEY,
    mark TEXT NOT NULL,                     -- of queries.parquet, to notice that another run lies there now
    asked INTEGER NOT NULL DEFAULT 0,       -- this and the next two are kept by triggers
    answered INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0,
    context INTEGER NOT NULL DEFAULT 0,     -- whether the queries' labeled neighbours are taken in
    labeled INTEGER NOT NULL DEFAULT 0,     -- whether the oracle has answered, and that is taken in
    committed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE twin_parts (
    round INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (round, name)
) WITHOUT ROWID;

-- A sample that nobody answered goes back to the pool: another round may ask for it again.
CREATE TABLE queries (
    round INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    sample_id INTEGER NOT NULL,
    score REAL,
    predicted INTEGER,
    neighbors TEXT,                         -- JSON: [[sample id, distance], ...]
    twin INTEGER NOT NULL DEFAULT 0,
    answered INTEGER NOT NULL DEFAULT 0,    -- this and the next two are those of `counted`, kept by triggers
    skipped INTEGER NOT NULL DEFAULT 0,
    source TEXT,
    labeler TEXT,                           -- this and the next two: the lease on it, if any
    session TEXT,
    until REAL,
    PRIMARY KEY (round, rank)
) WITHOUT ROWID;
CREATE UNIQUE INDEX queries_of_sample ON queries (sample_id, round);
CREATE INDEX open_queries ON queries (round, rank) WHERE answered = 0;
CREATE INDEX free_queries ON queries (round, rank) WHERE answered = 0 AND session IS NULL;
CREATE INDEX answered_queries ON queries (round, rank) WHERE answered = 1;
CREATE INDEX held_queries ON queries (session, labeler) WHERE session IS NOT NULL;
CREATE INDEX leases_by_end ON queries (until) WHERE session IS NOT NULL;

CREATE TABLE files (
    seq INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    whole INTEGER NOT NULL                  -- whether all its words are taken in
);

-- Every word of every file of the log; their order is that of the files' names, then that in the file.
CREATE TABLE words (
    id INTEGER PRIMARY KEY,
    file TEXT NOT NULL,
    place INTEGER NOT NULL,
    sample_id INTEGER NOT NULL,
    label TEXT,
    source TEXT NOT NULL,
    round INTEGER NOT NULL,
    time INTEGER NOT NULL,
    UNIQUE (file, place)
);
CREATE INDEX words_of_sample ON words (sample_id, file, place);

-- The word that counts of each sample. Where `file` is empty nobody's word is there, but the label that the
-- round `place` was trained with.
CREATE TABLE counted (
    sample_id INTEGER PRIMARY KEY,
    label TEXT,
    source TEXT NOT NULL,
    file TEXT NOT NULL,
    place INTEGER NOT NULL,
    words INTEGER NOT NULL,
    changes INTEGER NOT NULL,               -- words that changed an earlier one
    disagreed INTEGER NOT NULL              -- whether two sources have said different things
);
CREATE INDEX corrected ON counted (changes) WHERE changes > 0;
CREATE INDEX disagreements ON counted (sample_id) WHERE disagreed = 1;
CREATE TABLE classes (label TEXT PRIMARY KEY, samples INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (source TEXT PRIMARY KEY, samples INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE answers (                      -- of a round that count as a source's
    round INTEGER NOT NULL, source TEXT NOT NULL, samples INTEGER NOT NULL, PRIMARY KEY (round, source)
) WITHOUT ROWID;

CREATE TRIGGER query_asked AFTER INSERT ON queries BEGIN
    UPDATE rounds SET asked = asked + 1, answered = answered + NEW.answered, skipped = skipped + NEW.skipped
    WHERE round = NEW.round;
    INSERT INTO answers SELECT NEW.round, NEW.source, 1 WHERE NEW.source IS NOT NULL
        ON CONFLICT (round, source) DO UPDATE SET samples = samples + 1;
END;
CREATE TRIGGER query_answered AFTER UPDATE OF answered, skipped, source ON queries BEGIN
    UPDATE rounds SET answered = answered + NEW.answered - OLD.answered,
                      skipped = skipped + NEW.skipped - OLD.skipped
    WHERE round = NEW.round;
    UPDATE answers SET samples = samples - 1 WHERE round = OLD.round AND source = OLD.source;
    INSERT INTO answers SELECT NEW.round, NEW.source, 1 WHERE NEW.source IS NOT NULL
        ON CONFLICT (round, source) DO UPDATE SET samples = samples + 1;
END;
CREATE TRIGGER first_word AFTER INSERT ON counted BEGIN
    UPDATE queries SET answered = 1, skipped = NEW.label IS NULL, source = NEW.source,
                       labeler = NULL, session = NULL, until = NULL
    WHERE sample_id = NEW.sample_id;
    INSERT INTO sources VALUES (NEW.source, 1) ON CONFLICT (source) DO UPDATE SET samples = samples + 1;
    INSERT INTO classes SELECT NEW.label, 1 WHERE NEW.label IS NOT NULL
        ON CONFLICT (label) DO UPDATE SET samples = samples + 1;
END;
CREATE TRIGGER another_word AFTER UPDATE OF label, source ON counted BEGIN
    UPDATE queries SET skipped = NEW.label IS NULL, source = NEW.source WHERE sample_id = NEW.sample_id;
    UPDATE sources SET samples = samples - 1 WHERE source = OLD.source;
    INSERT INTO sources VALUES (NEW.source, 1) ON CONFLICT (source) DO UPDATE SET samples = samples + 1;
    UPDATE classes SET samples = samples - 1 WHERE label = OLD.label;
    INSERT INTO classes SELECT NEW.label, 1 WHERE NEW.label IS NOT NULL
        ON CONFLICT (label) DO UPDATE SET samples = samples + 1;
END;
"""

TABLES = (
    "meta",
    "rounds",
    "twin_parts",
    "queries",
    "files",
    "words",
    "counted",
    "classes",
    "sources",
    "answers",
)
