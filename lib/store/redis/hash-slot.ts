/** The number of slots of a Redis Cluster. */
export const SLOTS = 16_384

const CRC16 = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1
  return crc
})

/** Returns the slot in which Redis Cluster keeps the keys with a hash tag. */
export function hashSlot (tag: string): number {
  let crc = 0
  // CRC16 (XModem) of the bytes, modulo the number of slots (Redis Cluster specification).
  for (const byte of Buffer.from(tag)) crc = crc << 8 & 0xffff ^ (CRC16[crc >> 8 ^ byte] as number)
  return crc % SLOTS
}

/** Returns which of a number of partitions a text belongs to, from 0. Each partition has an equal share of the slots. */
export function partitionOf (text: string, count: number): number {
  return Math.floor(hashSlot(text) * count / SLOTS)
}
