export function make(section) { section.textContent = 'Not there yet.'; }
