"""A client with asyncio and httpx. Run `python3 client.py <URL>`, or import `Session`. Needs Python 3.11."""
import asyncio, codecs, contextlib, json, random, re, ssl, sys
from email.utils import parsedate_to_datetime

import httpx

SESSION_UNKNOWN = 'FST_SSE_SESSION_UNKNOWN'
# What httpx raises if there is no complete response. Errors of TLS are not always a TransportError.
# No other OSError: `on_event` could raise it, and its event would be repeated.
FAILURES = (httpx.TransportError, ssl.SSLError)


def is_refusal(status):
    return 200 < status < 500 and status not in (408, 421, 425, 429)


class Session:
    def __init__(self, url, on_event):
        """Calls `on_event(name, data)` for events, and also with `lost` (the session was lost, and there is a new one) and `refused` (the server has refused a message)."""
        self.url, self.on_event, self.id, self.cursor = url, on_event, None, None
        self.retry, self.failures, self.keys, self.timer = 1, 0, 0, None
        self.outbox, self.is_connected, self.changed = [], False, asyncio.Event()

    def send(self, event, data=None):
        self.keys += 1
        line = json.dumps({'event': event, 'data': data, 'id': str(self.keys)})
        # `tried_in` is the session in which the message may have been handled.
        self.outbox.append({'line': line, 'tried_in': None})
        self.changed.set()

    async def run(self):
        """Receives events until the session is closed. Returns the reason."""
        self.loop = asyncio.get_running_loop()
        self.reason = self.loop.create_future()
        async with httpx.AsyncClient(timeout=15) as self.http, asyncio.TaskGroup() as self.tasks:
            running = [self.tasks.create_task(self.receive()), self.tasks.create_task(self.deliver())]
            reason = await self.reason
            for task in *running, self.reading:
                task.cancel()
            return reason

    async def close(self):
        if self.id:
            with contextlib.suppress(*FAILURES):  # the session expires
                await self.http.delete(self.url + '/downward', headers={'X-Session-ID': self.id})

    def stop(self, reason):
        if not self.reason.done():
            self.reason.set_result(reason)

    async def wait(self, failures, headers):
        after, delay = headers.get('Retry-After', ''), 0
        if after.isdecimal():
            delay = int(after)
        elif after and 'Date' in headers:
            delay = (parsedate_to_datetime(after) - parsedate_to_datetime(headers['Date'])).total_seconds()
        await asyncio.sleep(max(delay, self.retry + random.uniform(0, min(10, self.retry * 2 ** min(failures, 10)))))

    async def receive(self):
        while True:
            self.opened, self.silence, self.stream_headers = self.loop.time(), 37.5, {}
            self.reading = self.tasks.create_task(self.read_stream())
            self.restart_timer()
            await asyncio.wait([self.reading])
            self.is_connected = False
            await self.wait(self.failures, self.stream_headers)
            self.failures += 1

    def restart_timer(self):
        # `asyncio.timeout` does not work with httpx 0.23.
        if self.timer:
            self.timer.cancel()
        self.timer = self.silence and self.loop.call_later(self.silence, self.reading.cancel)

    async def read_stream(self):
        headers = {'Accept': 'text/event-stream'}
        if self.cursor:
            headers['Last-Event-ID'] = self.cursor
        with contextlib.suppress(*FAILURES):
            async with self.http.stream('GET', self.url + '/downward', headers=headers, timeout=None) as response:
                self.stream_headers = response.headers
                if is_refusal(response.status_code):
                    self.stop(f'status {response.status_code}')
                elif response.headers.get('Content-Type', '').startswith('text/event-stream'):
                    await self.parse(response)

    async def parse(self, response):
        decode = codecs.getincrementaldecoder('utf-8')('replace').decode
        text, name, data, event_id = '', 'message', '', None
        async for chunk in response.aiter_bytes():
            # A CR at the end can be the first half of CRLF.
            *lines, text = re.split(r'\r\n|\n|\r(?!\Z)', text + decode(chunk))
            for line in lines:
                field, _, value = line.partition(':')
                value = value.removeprefix(' ')
                if field == 'retry':
                    self.retry = int(value) / 1000
                elif field == 'event':
                    name = value
                elif field == 'data':
                    data += value
                elif field == 'id':
                    event_id = value
                elif not line:
                    if data:
                        self.dispatch(name, json.loads(data))
                    self.cursor, name, data, event_id = event_id or self.cursor, 'message', '', None
            self.restart_timer()

    def dispatch(self, name, data):
        if name == 'welcome':
            is_lost = self.id not in (None, data['sessionId'])
            self.id, self.is_connected, self.failures = data['sessionId'], True, 0
            self.silence = data['heartbeatInterval'] / 400 if 'heartbeatInterval' in data else None
            self.changed.set()
            if is_lost:
                self.on_event('lost', None)
        elif name in ('close', 'replaced'):
            self.stop(name)
        else:
            self.on_event(name, data)

    async def deliver(self):
        failures, limit = 0, 100
        while True:
            # A new session does not have the keys of a lost one: a repeat could be handled twice.
            self.outbox = [message for message in self.outbox if message['tried_in'] in (None, self.id)]
            if not (self.is_connected and self.outbox):
                self.changed.clear()
                await self.changed.wait()
                continue
            session_id, batch = self.id, self.outbox[:limit]
            status, headers, body = await self.post(session_id, '\n'.join(message['line'] for message in batch))
            if status in (400, 413) and len(batch) > 1:
                limit = len(batch) // 2
                continue
            if status == 200 and isinstance(body, list) and len(body) == len(batch):
                results = body
            elif is_refusal(status):
                results = [{'status': status, 'body': body}] * len(batch)
            else:
                # After 4xx, and 503 with a code of this server, no message was handled. Otherwise the outcome is unknown.
                has_code = isinstance(body, dict) and str(body.get('code')).startswith('FST_SSE_')
                results = [{'status': 503 if 400 <= status < 500 or status == 503 and has_code else 0}] * len(batch)
            repeats = []
            for message, result in zip(batch, results):
                is_unknown = isinstance(result.get('body'), dict) and result['body'].get('code') == SESSION_UNKNOWN
                if result['status'] == 0:
                    message['tried_in'] = session_id
                if is_unknown or result['status'] in (0, 429, 503) and not result.get('replayed'):
                    repeats.append(message)
                elif result['status'] >= 400:
                    self.on_event('refused', {'status': result['status']})
            self.outbox[:len(batch)] = repeats
            is_stale = headers.get('X-Session-Connected') == 'false' and self.loop.time() > self.opened + self.retry
            if is_unknown or is_stale:
                self.is_connected = False
                self.reading.cancel()
            if len(repeats) < len(batch):
                failures, limit = 0, 100
            else:
                failures += 1
                await self.wait(failures, headers)

    async def post(self, session_id, content):
        """Returns the status, the headers and the body. The status is 0 if there is no complete response."""
        headers = {'X-Session-ID': session_id, 'Content-Type': 'application/x-ndjson'}
        try:
            response = await self.http.post(self.url + '/upward', content=content, headers=headers)
            is_json = response.headers.get('Content-Type', '').startswith('application/json')
            return response.status_code, response.headers, response.json() if is_json else None
        except (*FAILURES, ValueError):
            return 0, {}, None


async def main():
    def on_event(name, data):
        if name in ('echo', 'lost', 'refused'):
            session.send(name, data)
        elif name == 'gap':
            session.send('missed', data)
        elif name == 'leave':
            session.tasks.create_task(session.close())

    session = Session(sys.argv[1], on_event)
    reason = await session.run()
    if reason != 'close':
        sys.exit(f'The stream has ended: {reason}')


if __name__ == '__main__':
    asyncio.run(main())
