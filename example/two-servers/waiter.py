"""The waiter of a restaurant: sends orders, and prints their progress. Restart it whenever you like.
Run: python3 waiter.py <URL> <file for its state> <number of orders>"""
import pathlib, sys, threading, time

sys.path.append(str(pathlib.Path(__file__).parents[2] / 'clients/python'))
from client import Session

url, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

def on_event(name, data):
    print(name, data and f"{data.get('number')} {data.get('status')}", flush=True)

session = Session(url, on_event, path)

def send_orders():
    # The number of an order is its idempotency key. Orders that were sent before a restart are in the state.
    while session.keys < count:
        session.send('order', {'number': session.keys + 1})
        time.sleep(0.05)

threading.Thread(target=send_orders, daemon=True).start()
print('closed:', session.run())
