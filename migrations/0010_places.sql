-- What the list is narrowed by, kept beside the configuration so that ten thousand runs are searched without reading
-- theirs. Written when the run is made; name, notes and tags change with an edit, and `search` with them.
alter table run add column model   text not null default '';   -- model_name_or_path
alter table run add column dataset text not null default '';   -- names with commas
alter table run add column method  text not null default '';   -- finetuning_type
alter table run add column notes   text not null default '';
alter table run add column search  text not null default '';   -- lower case: name, id, model, dataset, tags, notes
-- The loss in at most 60 values, and the step that they were drawn at. Written by the ingest.
alter table run add column spark      text    not null default '';
alter table run add column spark_step integer not null default 0;
update run set
  model   = coalesce(json_extract(config, '$.model_name_or_path'), ''),
  dataset = coalesce(trim(replace(replace(json_extract(config, '$.dataset'), '["', ''), '"]', '')), ''),
  method  = coalesce(json_extract(config, '$.finetuning_type'), 'lora');
update run set search = lower(name || char(10) || id || char(10) || model || char(10) || dataset);
-- holds all that a filter looks at: the rows themselves are read for one page only
create index run_list on run (num, status, search, model, dataset, method);
create index run_ended on run (ended_ms);

create table tag (
  name text    not null,
  run  integer not null references run (num) on delete cascade,
  primary key (name, run)
) strict, without rowid;
create index tag_of_run on tag (run);

-- Values that were not finite, so that a bucket can say so.
alter table metric_block add column bad integer not null default 0;
