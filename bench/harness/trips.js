/** Makes round trips with every client at once, each as soon as its last is done. */
export async function roundTrips (load, clients, each) {
  let busy = clients.length
  for (const client of clients) {
    let left = each
    const next = () => {
      if (left-- > 0) client.trip(next)
      else if (--busy === 0) load.check()
    }
    next()
  }
  await load.until(() => busy === 0, 'the round trips')
}
