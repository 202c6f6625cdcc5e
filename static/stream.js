// One event stream, resumed exactly: nothing lost, nothing twice.
//
// The server puts the id (the run's event number) on the last frame of a flush only, so frames are held back until the
// id comes and then applied together. A cut inside a flush drops what was held; the server sends it again.
// The browser's own EventSource gives up for good after one answer that is not 200: then a new one starts after the
// last id that was applied. A hidden tab closes its stream after a while: over HTTP/1.1 a browser has only six.

const HIDDEN = 5000;
const KINDS = ['metric', 'log', 'state', 'sample', 'checkpoint', 'rewound', 'notice', 'done'];

/**
 * @param url of the stream, without the cursor
 * @param after number of the last event that the page has
 * @param take called with (kind, data) for each event, in order
 * @param link called with 'live', 'reconnecting', 'offline' or 'finished'
 */
export function follow(url, after, take, link) {
  let source = null, held = [], tries = 0, timer = null, over = false;

  function open() {
    clearTimeout(timer);
    if (source || over) return;
    held = [];
    source = new EventSource(`${url}?after=${after}`);
    source.onopen = () => { tries = 0; held = []; link('live'); };
    source.onerror = () => {
      held = [];
      link(navigator.onLine ? 'reconnecting' : 'offline');
      if (source?.readyState === EventSource.CLOSED) again();
    };
    for (const kind of KINDS) source.addEventListener(kind, (event) => hold(kind, event));
  }

  function again() {
    close();
    tries += 1;
    timer = setTimeout(open, Math.min(500 * 2 ** tries, 15000));
  }

  function close() {
    source?.close();
    source = null;
    held = [];
  }

  function hold(kind, event) {
    held.push([kind, event.data]);
    const id = Number(event.lastEventId || after);
    if (id <= after) return;
    const flush = held;
    held = [];
    after = id;
    for (const [name, data] of flush) take(name, JSON.parse(data));
    if (flush.some(([name]) => name === 'done')) {
      over = true;
      close();
      link('finished');
    }
  }

  document.addEventListener('visibilitychange', () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(close, HIDDEN);
    else open();
  });
  addEventListener('online', () => { if (source?.readyState !== EventSource.OPEN) again(); });
  addEventListener('pagehide', close);
  addEventListener('pageshow', (event) => { if (event.persisted) open(); });
  if (!document.hidden) open();
}
