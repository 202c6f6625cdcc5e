-- Samples, checkpoints and log lines of a run with a million points are found without reading its metrics.
create index event_kind on event (run, kind, seq) where kind != 'metric';
