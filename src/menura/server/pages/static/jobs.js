// The list of jobs follows what happens.
import { $, call, setState, watch } from "./app.js";

const due = new Set();
async function show(id) {
  const row = $(`[data-job="${id}"]`);
  if (!row) return location.reload();
  try {
    const job = await call(`/v1/jobs/${id}`), bar = $("progress", row);
    setState($(".job-state", row), job.state);
    bar.value = job.progress;
    bar.hidden = !["running", "cancelling"].includes(job.state);
  } catch (error) {
    if (error.status === 404) row.remove();
  }
}
watch("/v1/events", (kind, event) => {
  if (due.has(event.job)) return;
  due.add(event.job);
  setTimeout(() => { due.delete(event.job); show(event.job); }, 500);
});
