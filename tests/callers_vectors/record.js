const net=require('net'),http=require('http'),http2=require('http2'),fs=require('fs');
const out=fs.createWriteStream('vectors.jsonl');
function handle(req,res,h2){const c=[];req.on('data',d=>c.push(d));req.on('end',()=>{
  const raw=req.rawHeaders;const hs=[];for(let i=0;i<raw.length;i+=2)if(!raw[i].startsWith(':'))hs.push([raw[i].toLowerCase(),raw[i+1]]);
  const o={h2,method:req.method,path:req.url,authority:h2?req.headers[':authority']:req.headers.host,headers:hs,body:Buffer.concat(c).toString('base64')};
  out.write(JSON.stringify(o)+'\n');
  res.setHeader('content-type','application/json');res.statusCode=200;
  res.end(JSON.stringify({output:{message:{role:'assistant',content:[{text:'x'}]}},stopReason:'end_turn',usage:{inputTokens:1,outputTokens:1,totalTokens:2},metrics:{latencyMs:1},inferenceProfileSummaries:[],id:'m',type:'message',role:'assistant',content:[]}));});}
const h1=http.createServer((q,s)=>handle(q,s,false)),h2=http2.createServer((q,s)=>handle(q,s,true));
h1.on('checkContinue',(q,s)=>{s.writeContinue();handle(q,s,false)});
net.createServer(s=>{s.once('readable',()=>{const b=s.read();if(!b){return}s.unshift(b);(b.toString('latin1',0,3)==='PRI'?h2:h1).emit('connection',s);});}).listen(18999,'127.0.0.1');
