import { pathToFileURL } from 'node:url'

const { OURS } = process.env
const entry = OURS === undefined ? new URL('../../../dist/index.js', import.meta.url) : pathToFileURL(OURS)

/** Imports a file of this package as built in dist/. The environment variable OURS names the entry file of another build. */
export const importBuild = (file = entry) => import(new URL(file, entry))
