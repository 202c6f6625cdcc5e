-- One row a run. Written by the server only: the queue (status, queue_pos), the supervisor (worker_pid, restarts, reason)
-- and the ingest (everything below "progress", in the transaction that stores the events it comes from).
create table run (
  num           integer primary key,          -- short key of the big tables below
  id            text    not null unique,      -- ULID: sorts by creation
  start_id      text    unique,               -- client's key for "the same click"
  name          text    not null,
  status        text    not null check (status in
                  ('queued', 'running', 'stopping', 'finished', 'stopped', 'failed', 'lost')),
  config        text    not null,             -- JSON object, argument names of LLaMA-Factory, frozen at creation
  output_dir    text    not null,             -- absolute
  created_ms    integer not null,
  started_ms    integer,                      -- first time that a worker took it
  ended_ms      integer,
  queue_pos     integer not null,             -- smallest first; a resumed run goes to the end
  worker_pid    integer,                      -- for people and signals; liveness is the run's lock
  exit_code     integer,                      -- the present worker's last word, from events.jsonl; null = none yet
  exit_message  text,
  restarts      integer not null default 0,   -- automatic restarts without progress
  best_step     integer not null default 0,   -- highest step at the last restart: more is progress
  stop_mode     text,                         -- 'save' or 'now' while stopping
  reason        text,                         -- why it failed, stopped or was restarted
  -- progress
  phase         text,
  phase_done    integer,
  phase_total   integer,
  step          integer not null default 0,
  total_steps   integer,
  epoch         real,
  elapsed_s     real,
  tokens_per_s  real,
  last_loss     real,
  last_eval_loss real,
  checkpoint_step integer,
  -- ingest cursors
  seq           integer not null default 0,   -- last event.seq of this run
  worker_seq    integer not null default 0,   -- last seq taken from events.jsonl
  events_offset integer not null default 0,   -- bytes of events.jsonl taken
  log_offset    integer not null default 0    -- bytes of worker.log taken
) strict;
create index run_by_status on run (status, queue_pos);

-- What the live page replays. Written by the ingest (worker's events, log lines) and by the supervisor (kind 'state').
create table event (
  run   integer not null references run (num) on delete cascade,
  seq   integer not null,                     -- 1, 2, 3 ... of this run: the id of the SSE stream
  kind  text    not null,                     -- metric log state sample checkpoint notice rewound done
  at_ms integer not null,
  body  text    not null,                     -- JSON
  primary key (run, seq)
) strict, without rowid;

create table metric_key (
  id   integer primary key,
  name text not null unique
) strict;

-- One value a run, key and step: a value that comes again (after a resume) replaces the old one. Written by the ingest.
create table metric (
  run   integer not null references run (num) on delete cascade,
  key   integer not null references metric_key (id),
  step  integer not null,
  seq   integer not null,                     -- of the event that brought it
  value real,                                 -- null: not finite
  primary key (run, key, step)
) strict, without rowid;

-- The same values by blocks of 256 steps, so that a million points cost four thousand rows. Written with the metrics.
create table metric_block (
  run   integer not null references run (num) on delete cascade,
  key   integer not null references metric_key (id),
  block integer not null,                     -- step / 256
  n     integer not null,                     -- finite values
  total real    not null,
  low   real    not null,
  high  real    not null,
  last_step integer not null,
  primary key (run, key, block)
) strict, without rowid;

-- Single settings of the server. Written by whoever owns the key.
create table kv (
  key   text primary key,
  value text not null
) strict, without rowid;
