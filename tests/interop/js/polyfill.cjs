// js-libp2p wants Node 22; what it misses in Node 20 is this one function.
Promise.withResolvers ??= function () {
  const made = {}
  made.promise = new this((resolve, reject) => Object.assign(made, { resolve, reject }))
  return made
}
