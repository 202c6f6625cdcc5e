-- When a run was last heard of: its worker wrote something, or its state changed. Written by ingest and supervisor.
alter table run add column heard_ms integer not null default 0;
update run set heard_ms = coalesce(ended_ms, started_ms, created_ms);
-- Where news of runs goes. Written by admins; `url` and `header` are secrets and never shown again, `host` is.
create table webhook (
  id         integer primary key,
  name       text    not null,
  url        text    not null,
  host       text    not null,
  shape      text    not null check (shape in ('json', 'slack')),
  header     text    not null,               -- 'Name: value', or empty
  events     text    not null,               -- words with commas: finished,failed,nan,stalled
  created_ms integer not null,
  last_ms    integer,                        -- the last delivery: when, of what, how it went
  last_event text,
  last_ok    integer,
  last_text  text
) strict;
-- What is still to be told. Written with the change that it tells of, in one transaction; taken away once delivered.
create table delivery (
  id      integer primary key,
  hook    integer not null references webhook (id) on delete cascade,
  event   text    not null,
  body    text    not null,                  -- JSON
  tries   integer not null default 0,
  next_ms integer not null
) strict;
create index delivery_by_hook on delivery (hook, id);
-- What was told already: `mark` is 0, or the number of the event after which a run fell silent.
create table told (
  run   integer not null references run (num) on delete cascade,
  event text    not null,
  mark  integer not null,
  primary key (run, event, mark)
) strict, without rowid;
