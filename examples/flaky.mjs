// Works for a few seconds, then crashes: watch Steward bring it back.
const seconds = 5 + Math.random() * 15;
console.log(`process ${process.pid} will crash in ${seconds.toFixed(1)} s`);
setTimeout(() => {
  console.error("something went wrong");
  process.exit(3);
}, seconds * 1000);
