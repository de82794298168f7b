/** Frames an event by hand. */
export const frame = data => `id: ${data.n}\ndata: ${JSON.stringify(data)}\n\n`
