-- People. A password is kept as its Argon2id hash with its parameters; a session and a token as the BLAKE3 hash of what
-- the browser or the script sends, so that nobody who reads the database can use them.
create table user (
  id         integer primary key,
  name       text    not null unique collate nocase,
  role       text    not null check (role in ('viewer', 'editor', 'admin')),
  password   text    not null,
  created_ms integer not null
) strict;
create table session (
  hash       text    primary key,
  user       integer not null references user (id) on delete cascade,
  created_ms integer not null,
  used_ms    integer not null
) strict, without rowid;
create table api_token (
  id         integer primary key,
  hash       text    not null unique,
  user       integer not null references user (id) on delete cascade,
  name       text    not null,
  created_ms integer not null,
  used_ms    integer
) strict;
-- Who did what. Written after each change that succeeded; never changed.
create table audit (
  id    integer primary key,
  at_ms integer not null,
  who   text    not null,
  act   text    not null,
  path  text    not null,
  run   text
) strict;
alter table run add column owner text not null default '';   -- who started it; empty = the machine's own user
